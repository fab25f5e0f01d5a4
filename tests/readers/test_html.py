from factory.readers.html import html_blocks
from factory.rows import Document


def texts(page):
    return [block.text for block in html_blocks(page)]


def test_headings_keep_their_level_and_paragraphs_their_words():
    blocks = html_blocks("<h1>A</h1><h3>B</h3><p>one <b>two</b> <a href='x'>three</a></p>")
    assert [(b.kind, b.level, b.text) for b in blocks] == [
        ("heading", 1, "A"),
        ("heading", 3, "B"),
        ("paragraph", 1, "one two three"),
    ]


def test_what_a_browser_does_not_show_is_dropped():
    page = """<p>seen</p><!-- comment --><script>x()</script><style>p{}</style><nav>Home</nav>
      <p style="display: none">a</p><p hidden>b</p><span style="font-size:0">c</span>
      <p style="visibility:hidden">d</p>"""
    assert texts(page) == ["seen"]


def test_small_but_visible_type_stays():
    assert texts('<p style="font-size:0.8em">small</p><p style="opacity:0.5">pale</p>') == ["small", "pale"]


def test_details_forms_figures_and_single_characters_are_not_lost():
    page = """<details><summary>More</summary>inside</details><form><label>Name</label> of pump</form>
      <figure>drawn<figcaption>Figure 1</figcaption></figure><p>7</p>"""
    assert texts(page) == ["More", "inside", "Name of pump", "drawn", "Figure 1", "7"]


def test_list_items_with_paragraphs_are_list_items():
    blocks = html_blocks("<ul><li><p>one</p><p>more</p></li><li>two<ul><li>three</li></ul></li></ul>")
    assert [(b.kind, b.text) for b in blocks] == [
        ("list_item", "one"),
        ("paragraph", "more"),
        ("list_item", "two"),
        ("list_item", "three"),
    ]


def test_definitions_stand_with_their_term():
    page = "<dl><dt>E11</dt><dd>The hands are stuck.</dd><dt>E42:</dt><dd><p>No terminator.</p></dd></dl>"
    assert texts(page) == ["E11: The hands are stuck.", "E42: No terminator."]


def test_spanning_cells_are_repeated_and_nested_tables_are_text():
    page = """<table><caption>Prices</caption><tr><th>A</th><th colspan=2>B</th></tr>
      <tr><td rowspan=2>1</td><td>2<br>3</td><td><table><tr><td>n</td></tr></table></td></tr>
      <tr><td>5</td></tr></table>"""
    caption, table = html_blocks(page)
    assert caption.text == "Prices"
    assert table.cells == (("A", "B", "B"), ("1", "2 3", "n"), ("1", "5", ""))


def test_layout_tables_are_unfolded():
    blocks = html_blocks("<table><tr><td><h2>Head</h2><p>text</p></td><td>side</td></tr></table>")
    assert [(b.kind, b.text) for b in blocks] == [
        ("heading", "Head"),
        ("paragraph", "text"),
        ("paragraph", "side"),
    ]


def test_a_huge_span_does_not_blow_up():
    (table,) = html_blocks("<table><tr><th>a</th><td colspan=999999999 rowspan=999999999>b</td></tr></table>")
    assert len(table.cells[0]) == 201


def test_20000_nested_tags_keep_their_text(read_one):
    page = "<html><body>" + "<div>" * 20_000 + "<p>the bottom</p>" + "</div>" * 20_000 + "</body></html>"
    assert read_one("deep.html", page).text == "the bottom"


def test_entities_are_not_expanded_from_a_doctype(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("swordfish")
    page = f'<!DOCTYPE html [<!ENTITY x SYSTEM "file://{secret}">]><html><body>&x;</body></html>'
    assert "swordfish" not in " ".join(texts(page))


def test_title_and_meta_tags_are_kept(read_one):
    page = "<title>Rates</title><meta name=author content=Ada><meta name=date content='2026-01-02'><p>x</p>"
    document: Document = read_one("a.html", page)
    assert (document.title, document.metadata) == ("Rates", {"author": "Ada", "date": "2026-01-02"})


def test_the_declared_encoding_is_used(read_one):
    page = '<meta charset="iso-8859-2"><p>žluťoučký kůň</p>'.encode("iso-8859-2")
    assert read_one("a.html", page).text == "žluťoučký kůň"
