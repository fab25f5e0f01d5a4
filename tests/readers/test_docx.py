import zipfile
from io import BytesIO

import docx
import pytest
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.text import WD_COLOR_INDEX
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls, qn
from docx.shared import Pt, RGBColor


def test_levels_lists_and_tables_are_kept_and_hidden_text_is_not(read_one, make):
    document = read_one("memo.docx", make.docx())
    assert [(item.kind, item.text, item.heading_path) for item in document.elements] == [
        ("heading", "Oil", ()),
        ("paragraph", "The Zephyrine pump needs 42 litres of oil.", ()),
        ("heading", "Steps", ()),
        ("list_item", "Drain it.", ("Steps",)),
        ("table", "| Part | Price |\n| --- | --- |\n| filter | £9 |", ("Steps",)),
    ]


def test_tracked_changes_are_accepted(read_one, make):
    assert "Change it every six months." in read_one("memo.docx", make.docx(make.insert_tracked)).text


def test_content_controls_and_text_boxes_are_read(read_one, make):
    def change(document):
        body = document.element.body
        words = "<w:p><w:r><w:t>Controlled words.</w:t></w:r></w:p>"
        control = f"<w:sdt {nsdecls('w')}><w:sdtPr/><w:sdtContent>{words}</w:sdtContent></w:sdt>"
        body.insert(0, parse_xml(control))
        boxed = f"<w:txbxContent>{words.replace('Controlled', 'Boxed')}</w:txbxContent>"
        box = f"<w:r {nsdecls('w')}><w:pict>{boxed}</w:pict></w:r>"
        document.paragraphs[1]._p.append(parse_xml(box))

    text = read_one("memo.docx", make.docx(change)).text
    assert "Controlled words." in text
    assert text.count("Boxed words.") == 1


def test_merged_cells_keep_the_columns_in_line(read_one, make):
    def change(document):
        table = document.tables[0]
        table.add_row()
        table.cell(2, 0).merge(table.cell(2, 1)).text = "all prices without VAT"

    (table,) = [item for item in read_one("memo.docx", make.docx(change)).elements if item.kind == "table"]
    assert {len(row) for row in table.cells} == {2}
    assert table.cells[2][0] == "all prices without VAT"


def test_bold_lines_are_headings_only_without_styled_ones(read_one, make):
    document = docx.Document()
    document.add_paragraph().add_run("Opening hours").bold = True
    document.add_paragraph("From nine to five.")
    assert [item.kind for item in read_one("a.docx", make.saved(document)).elements] == [
        "heading",
        "paragraph",
    ]
    document.add_heading("Styled", 1)
    assert read_one("a.docx", make.saved(document)).elements[0].kind == "paragraph"


def test_core_properties_are_metadata(read_one):
    document = docx.Document()
    document.add_paragraph("words")
    document.core_properties.title, document.core_properties.author = "Leave policy", "Ada"
    document.sections[0].footer.paragraphs[0].text = "Version 5"
    file = BytesIO()
    document.save(file)
    row = read_one("a.docx", file.getvalue())
    assert (row.title, row.metadata["author"], row.metadata["footer"]) == ("Leave policy", "Ada", "Version 5")
    assert row.text == "words"


def shade(properties, fill, pattern="clear"):
    """Give paragraph, run, cell or style properties a ground of that colour."""
    mark = OxmlElement("w:shd")
    mark.set(qn("w:val"), pattern)
    mark.set(qn("w:fill" if pattern == "clear" else "w:color"), fill)
    properties.append(mark)


def add_style(document, name, kind=WD_STYLE_TYPE.CHARACTER, base=None, **font):
    style = document.styles.add_style(name, kind)
    style.base_style = base
    for key, value in font.items():
        setattr(style.font, key, value)
    return style


def hide_directly(document, run):
    run.font.hidden = True


def hide_by_run_style(document, run):
    run.style = add_style(document, "Child", base=add_style(document, "Parent", hidden=True))


def hide_by_paragraph_style(document, run):
    run._parent.style = add_style(document, "Quiet", WD_STYLE_TYPE.PARAGRAPH, hidden=True)


def hide_in_the_usual_style(document, run):
    document.styles["Normal"].font.size = Pt(1)
    document.paragraphs[0].runs[0].font.size = Pt(11)


def make_tiny(document, run):
    run.font.size = Pt(1)


def make_tiny_by_style(document, run):
    run.style = add_style(document, "Small print", size=Pt(0.5))


def make_white(document, run):
    run.font.color.rgb = RGBColor(255, 255, 255)


def make_nearly_white_by_style(document, run):
    run._parent.style = add_style(document, "Pale", WD_STYLE_TYPE.PARAGRAPH)
    run._parent.style.font.color.rgb = RGBColor(0xF8, 0xF8, 0xF6)


def black_out(document, run):
    run.font.color.rgb = RGBColor(0, 0, 0)
    run.font.highlight_color = WD_COLOR_INDEX.BLACK


def make_white_on_a_white_paragraph(document, run):
    make_white(document, run)
    shade(run._parent._p.get_or_add_pPr(), "FFFFFF")


HIDING = [
    hide_directly, hide_by_run_style, hide_by_paragraph_style, hide_in_the_usual_style, make_tiny, make_tiny_by_style,
    make_white, make_nearly_white_by_style, black_out, make_white_on_a_white_paragraph,
]  # fmt: skip


@pytest.mark.parametrize("hide", HIDING)
def test_text_that_nobody_sees_is_not_read(read_one, make, hide):
    document = docx.Document()
    document.add_paragraph("Seen words.")
    hide(document, document.add_paragraph().add_run("Secret words."))
    assert read_one("a.docx", make.saved(document)).text == "Seen words."


def show_again(document, run):
    hide_by_run_style(document, run)
    run.font.hidden = False


def hide_twice(document, run):
    hide_by_run_style(document, run)
    hide_by_paragraph_style(document, run)


def enlarge_again(document, run):
    hide_in_the_usual_style(document, run)
    run.font.size = Pt(9)


def print_small(document, run):
    run.font.size = Pt(1.5)


def make_grey(document, run):
    run.font.color.rgb = RGBColor(0xEE, 0xEE, 0xEE)


def white_on(ground):
    def change(document, run):
        make_white(document, run)
        ground(document, run)

    change.__name__ = f"white_on_{ground.__name__}"
    return change


def a_highlight(document, run):
    run.font.highlight_color = WD_COLOR_INDEX.DARK_BLUE


def a_dark_run(document, run):
    shade(run._r.get_or_add_rPr(), "1F3864", "solid")


def a_pattern(document, run):
    shade(run._parent._p.get_or_add_pPr(), "FFFFFF", "pct50")


def a_dark_paragraph_style(document, run):
    style = add_style(document, "Banner", WD_STYLE_TYPE.PARAGRAPH)
    shade(style.element.get_or_add_pPr(), "C00000")
    run._parent.style = style


def a_page_colour(document, run):
    page = OxmlElement("w:background")
    page.set(qn("w:color"), "000080")
    document.element.insert(0, page)


def a_picture(document, run):
    wp = "http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"
    anchor = f'<w:drawing {nsdecls("w")}><x:anchor xmlns:x="{wp}" behindDoc="1"/></w:drawing>'
    document.paragraphs[0].add_run()._r.append(parse_xml(anchor))


GROUNDS = [a_highlight, a_dark_run, a_pattern, a_dark_paragraph_style, a_page_colour, a_picture]


@pytest.mark.parametrize(
    "change", [show_again, hide_twice, enlarge_again, print_small, make_grey, *map(white_on, GROUNDS)]
)
def test_text_that_can_be_seen_is_read(read_one, make, change):
    document = docx.Document()
    document.add_paragraph("Seen words.")
    change(document, document.add_paragraph().add_run("More words."))
    assert read_one("a.docx", make.saved(document)).text == "Seen words.\n\nMore words."


@pytest.mark.parametrize(
    ("style", "fill", "shown"),
    [("Table Grid", "1F3864", True), ("Table Grid", None, False), ("Medium Shading 1 Accent 1", None, True)],
)
def test_white_table_headers_are_read_where_the_cell_is_dark(read_one, make, style, fill, shown):
    document = docx.Document()
    document.add_paragraph("Prices")
    table = document.add_table(rows=2, cols=2, style=style)
    for cell, text in zip(table._cells, ["Part", "Price", "filter", "£9"], strict=True):
        run = cell.paragraphs[0].add_run(text)
        if text in ("Part", "Price"):
            make_white(document, run)
            if fill:
                shade(cell._tc.get_or_add_tcPr(), fill)
    text = read_one("a.docx", make.saved(document)).text
    assert ("Part" in text, "filter" in text) == (shown, True)


def test_footnotes_are_read_as_far_as_they_are_seen(read_one, make):
    def note(document):
        runs = "<w:r><w:t>Seen note.</w:t></w:r><w:r><w:rPr><w:sz w:val='1'/></w:rPr><w:t> Secret note.</w:t></w:r>"
        xml = f"<w:footnotes {nsdecls('w')}><w:footnote><w:p>{runs}</w:p></w:footnote></w:footnotes>"
        kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
        part = Part(PackURI("/word/footnotes.xml"), kind, xml.encode(), document.part.package)
        document.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)

    assert read_one("memo.docx", make.docx(note)).elements[-1].text == "Seen note."


def test_hidden_rows_are_not_read(read_one, make):
    def hide(document):
        row = document.tables[0].add_row()
        row.cells[0].text = "secret"
        row._tr.get_or_add_trPr().append(OxmlElement("w:hidden"))

    text = read_one("memo.docx", make.docx(hide)).text
    assert ("secret" in text, "filter" in text) == (False, True)


def test_styles_based_on_each_other_do_no_harm(read_one, make):
    document = docx.Document()
    one, two = (add_style(document, name) for name in ("One", "Two"))
    one.base_style, two.base_style = two, one
    document.add_paragraph().add_run("Words.").style = one
    assert read_one("a.docx", make.saved(document)).text == "Words."


def rewrite(data, part, change):
    """Return a docx with one part's bytes changed."""
    file = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == part else old.read(name))
    return file.getvalue()


def test_external_entities_are_not_read(read, make, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("swordfish")
    doctype = f'<!DOCTYPE w [<!ENTITY x SYSTEM "file://{secret}">]>'.encode()

    def change(xml):
        head, mark, rest = xml.partition(b"?>")
        return head + mark + doctype + rest.replace(b"42 litres", b"&x; litres")

    reading = read("memo.docx", rewrite(make.docx(), "word/document.xml", change))
    assert "swordfish" not in str(reading)


def test_a_billion_laughs_are_refused_or_ignored(read, make):
    entities = b"".join(b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 9))
    doctype = b'<!DOCTYPE w [<!ENTITY e0 "lol">' + entities + b"]>"

    def change(xml):
        head, mark, rest = xml.partition(b"?>")
        return head + mark + doctype + rest.replace(b"42 litres", b"&e8; litres")

    reading = read("memo.docx", rewrite(make.docx(), "word/document.xml", change))
    assert len(str(reading)) < 10_000


def test_huge_xml_is_refused_before_it_is_unpacked(refusal, make):
    data = rewrite(make.docx(), "word/document.xml", lambda xml: xml.replace(b"42 litres", b"x" * (60 << 20)))
    assert len(data) < 1 << 20
    assert refusal("memo.docx", data) == "zip_bomb"


@pytest.mark.parametrize("text", ["", " ", "\u200b"])
def test_a_document_without_words_is_no_text(refusal, make, text):
    document = docx.Document()
    document.add_paragraph(text)
    assert refusal("a.docx", make.saved(document)) == "no_text"
