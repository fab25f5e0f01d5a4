import zipfile
from io import BytesIO

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls


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
