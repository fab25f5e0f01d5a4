"""Small real files of every format, made with the formats' own libraries."""

import io
import json
import zipfile
from email.message import EmailMessage
from types import SimpleNamespace

import docx
import openpyxl
import pptx
import pytest
from docx.oxml.ns import qn
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from factory.readers.contract import Limits
from factory.readers.offline import ENVIRONMENT

WORD = "Zephyrine"


@pytest.fixture(scope="session", autouse=True)
def _offline_unstructured():
    patch = pytest.MonkeyPatch()
    for key, value in ENVIRONMENT.items():
        patch.setenv(key, value)
    from factory.readers.tagger import use_lite_tagger

    use_lite_tagger()
    yield
    patch.undo()


@pytest.fixture(scope="session")
def read():
    """Return the rows of a file, read in this process."""
    from factory.readers.source import read_source

    def run(name, data, **limits):
        return read_source(name, data.encode() if isinstance(data, str) else data, Limits(**limits))

    return run


@pytest.fixture(scope="session")
def read_one(read):
    """Return the one document of a file that must be readable."""

    def run(name, data, **limits):
        reading = read(name, data, **limits)
        assert not reading.quarantined, reading.quarantined
        return reading.documents[0]

    return run


@pytest.fixture(scope="session")
def refusal(read):
    """Return the reason for which a file is quarantined, which must be its only row."""

    def run(name, data, **limits):
        reading = read(name, data, **limits)
        assert not reading.documents, reading.documents[0].text
        (row,) = reading.quarantined
        assert row.detail.endswith(".")
        assert ": " in row.detail
        return row.reason

    return run


@pytest.fixture(scope="session")
def make():
    """The builders of files by format."""
    return SimpleNamespace(
        docx=make_docx,
        insert_tracked=insert_tracked,
        mail=make_mail,
        pdf=make_pdf,
        pptx=make_pptx,
        saved=_saved,
        xlsx=make_xlsx,
        zip=make_zip,
    )


@pytest.fixture(scope="session")
def samples():
    """A file of every format by name; each says that the Zephyrine pump needs 42 litres of oil."""
    return {
        "guide.md": _markdown(),
        "page.html": _html(),
        "note.txt": f"OIL\n\nThe {WORD} pump needs 42 litres of oil.\n\n- Drain it.\n- Fill it.\n".encode(),
        "manual.rst": f"Oil\n===\n\nThe {WORD} pump needs *42 litres* of oil.\n".encode(),
        "memo.docx": make_docx(),
        "deck.pptx": make_pptx(),
        "prices.xlsx": make_xlsx(),
        "stock.csv": f"part,litres\n{WORD} pump,42\n".encode(),
        "stock.tsv": f"part\tlitres\n{WORD} pump\t42\n".encode(),
        "facts.json": json.dumps({"pump": WORD, "oil": {"litres": 42}}).encode(),
        "facts.jsonl": f'{{"pump": "{WORD}", "litres": 42}}\n'.encode(),
        "mail.eml": make_mail(),
        "sheet.pdf": make_pdf([[(18, "Oil"), (10, f"The {WORD} pump needs 42 litres of oil.")]]),
        "pump.py": f'"""Oil the pump."""\n\nNAME = "{WORD}"  # needs 42 litres\n'.encode(),
        "pack.zip": make_zip({"inner/note.md": f"# Oil\n\nThe {WORD} pump needs 42 litres.\n".encode()}),
    }


def _markdown():
    return (
        f"---\ntitle: Pump guide\nowner: Ada\n---\n\n# Oil\n\nThe {WORD} pump needs **42 litres** of oil.\n\n"
        "## Steps\n\n1. Drain it.\n2. Fill it.\n\n| Part | Price |\n| --- | --- |\n| filter | £9 |\n"
    ).encode()


def _html():
    return (
        f"<html><head><title>Pump</title></head><body><h1>Oil</h1><p>The {WORD} pump needs 42 litres.</p>"
        "<table><tr><th>Part</th><th>Price</th></tr><tr><td>filter</td><td>£9</td></tr></table></body></html>"
    ).encode()


def make_docx(change=None):
    document = docx.Document()
    document.add_heading("Oil", 1)
    paragraph = document.add_paragraph(f"The {WORD} pump needs 42 litres of oil.")
    hidden = paragraph.add_run(" Hidden words.")
    hidden.font.hidden = True
    document.add_heading("Steps", 2)
    document.add_paragraph("Drain it.", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Part", "Price", "filter", "£9"], strict=True):
        cell.text = text
    if change:
        change(document)
    return _saved(document)


def insert_tracked(document):
    """Put an insertion and a deletion into a document the way Word tracks them."""
    paragraph = document.add_paragraph("Change it every ")
    for tag, text in (("w:ins", "six"), ("w:del", "nine")):
        change = paragraph._p.makeelement(qn(tag), {})
        run = paragraph.add_run(text)._r
        if tag == "w:del":
            run[-1].tag = qn("w:delText")
        change.append(run)
        paragraph._p.append(change)
    paragraph.add_run(" months.")


def make_pptx():
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Oil"
    slide.placeholders[1].text = f"The {WORD} pump needs 42 litres of oil."
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Prices"
    table = slide.shapes.add_table(2, 2, 0, 2_000_000, 4_000_000, 1_000_000).table
    for index, text in enumerate(["Part", "Price", "filter", "£9"]):
        table.cell(index // 2, index % 2).text = text
    return _saved(deck)


def make_xlsx():
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Oil"
    for row in (["Part", "Litres", "Price"], [f"{WORD} pump", 42, 9.5], ["filter", None, 0.15]):
        sheet.append(row)
    sheet["C2"].number_format = '"£"#,##0.00'
    sheet["C3"].number_format = "0%"
    sheet["A5"] = "Prices without VAT."
    hidden = book.create_sheet("Secret")
    hidden["A1"] = "hidden sheet"
    hidden.sheet_state = "hidden"
    return _saved(book)


def make_mail(attachments=(("list.csv", b"part,kg\ncrate,64\n"),)):
    message = EmailMessage()
    message["From"] = "Ada <ada@works.example>"
    message["To"] = "Bo <bo@works.example>"
    message["Date"] = "Tue, 03 Mar 2026 10:12:00 +0000"
    message["Subject"] = "Oil"
    message.set_content(f"Dear Bo,\n\nthe {WORD} pump needs 42 litres.\n\n> Old words\n> of yours.\n")
    for name, data in attachments:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def make_pdf(pages, table=None, password=None):
    """Return a PDF whose pages are lists of (type size, line); `table` is drawn with ruled lines on each."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, invariant=True, encrypt=password)
    for lines in pages:
        y = 780
        for size, text in lines:
            y -= size * 2 if size > 10 else 14
            canvas.setFont("Helvetica", size)
            canvas.drawString(60, y, text)
        if table:
            _draw_table(canvas, table, y - 30)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def _draw_table(canvas, rows, top):
    canvas.grid([60 + 120 * x for x in range(len(rows[0]) + 1)], [top - 20 * y for y in range(len(rows) + 1)])
    canvas.setFont("Helvetica", 10)
    for number, row in enumerate(rows):
        for column, text in enumerate(row):
            canvas.drawString(64 + 120 * column, top - 20 * number - 14, text)


def make_zip(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _saved(thing):
    file = io.BytesIO()
    thing.save(file)
    return file.getvalue()
