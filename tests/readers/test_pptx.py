import pptx


def test_notes_follow_their_slide_and_tables_are_cells(read_one, make):
    document = read_one("deck.pptx", make.pptx())
    assert [(item.kind, item.text, item.page) for item in document.elements[:3]] == [
        ("heading", "Oil", 1),
        ("paragraph", "The Zephyrine pump needs 42 litres of oil.", 1),
        ("paragraph", "Say it slowly.", 1),
    ]
    assert document.elements[-1].cells == (("Part", "Price"), ("filter", "£9"))
    assert (document.elements[-1].heading_path, document.elements[-1].page) == (("Prices",), 2)


def test_short_texts_are_not_taken_for_headings(read_one, make):
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Facts"
    slide.placeholders[1].text = "Golden Gate\nSan Francisco"
    document = read_one("a.pptx", make.saved(deck))
    assert [item.kind for item in document.elements] == ["heading", "paragraph", "paragraph"]
