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


def test_hidden_slides_are_not_read_and_keep_their_number(read_one, make):
    deck = pptx.Presentation()
    for title in ("First", "Second", "Third"):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, f"{title} words."
        slide.notes_slide.notes_text_frame.text = f"{title} notes."
    deck.slides[0].element.set("show", "0")
    deck.slides[2].element.set("show", "1")
    document = read_one("a.pptx", make.saved(deck))
    assert (document.title, "First" in document.text) == ("Second", False)
    assert [(item.text, item.page) for item in document.elements] == [
        (text, page)
        for page, title in ((2, "Second"), (3, "Third"))
        for text in (title, f"{title} words.", f"{title} notes.")
    ]


def test_hidden_shapes_are_not_read(read_one, make):
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Oil", "Seen words."
    boxes = [
        slide.shapes.add_textbox(0, 0, 99, 99),
        slide.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9),
    ]
    for box in boxes:
        box.text_frame.text = "Secret words."
    boxes[0]._element.nvSpPr.cNvPr.set("hidden", "1")
    boxes[1]._element.getparent().nvGrpSpPr[0].set("hidden", "true")
    document = read_one("a.pptx", make.saved(deck))
    assert [item.text for item in document.elements] == ["Oil", "Seen words."]
