"""Writers that turn the markdown dialect of `data/source` into office formats, always to the same bytes.

One writer a format, each `(name, text) -> bytes`. Times, ids and boundaries are fixed, so that building the
company twice gives the same files and a changed file means a changed source.
"""

import datetime as dt
import io
import re
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from typing import NamedTuple

import docx
import openpyxl
import pptx
from openpyxl.styles import Font
from pptx.util import Inches
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle
from reportlab.platypus import ListFlowable as PdfList

STAMP = dt.datetime(2026, 3, 9, 8, 30)
AUTHOR = "Tolvane & Daughters Ltd"
STYLES = getSampleStyleSheet()
RULED = TableStyle(
    [
        ("GRID", (0, 0), (-1, -1), 0.5, colors.grey),
        ("BACKGROUND", (0, 0), (-1, 0), colors.whitesmoke),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ]
)
BLOCK_STARTS = {"# ": "h1", "## ": "h2", "### ": "h3", "- ": "bullet", "|": "row"}
DOCX_STYLES = {"bullet": "List Bullet", "step": "List Number", "p": None}


class Block(NamedTuple):
    """One heading, paragraph, list item or table row; `cells` is filled for rows only."""

    kind: str
    text: str
    cells: tuple[str, ...] = ()


def parse_blocks(text: str) -> list[Block]:
    """Read the markdown dialect: headings, paragraphs, bullets, steps and pipe tables."""
    return [block for chunk in re.split(r"\n\s*\n", text.strip()) for block in _read_chunk(chunk)]


def _read_chunk(chunk: str) -> list[Block]:
    """Read lines that no empty line divides; a plain line goes on with the text before it."""
    blocks: list[Block] = []
    for line in chunk.splitlines():
        block = _read_line(line)
        if block.kind == "p" and blocks and blocks[-1].kind in DOCX_STYLES:
            blocks[-1] = blocks[-1]._replace(text=f"{blocks[-1].text} {block.text}")
        elif not _is_rule(block):
            blocks.append(block)
    return blocks


def _read_line(line: str) -> Block:
    plain = re.sub(r"\*\*|`", "", line.strip())
    for start, kind in BLOCK_STARTS.items():
        if plain.startswith(start):
            cells = tuple(cell.strip() for cell in plain.strip("|").split("|")) if kind == "row" else ()
            return Block(kind, plain.removeprefix(start).strip(), cells)
    step = re.match(r"\d+\. (.+)", plain)
    return Block("step", step[1]) if step else Block("p", plain)


def _is_rule(block: Block) -> bool:
    return block.kind == "row" and set("".join(block.cells)) <= set("-: ")


def grouped(blocks: list[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Yield runs of neighbouring blocks of one kind, so that a table or a list comes whole."""
    run: list[Block] = []
    for block in blocks:
        if run and block.kind != run[-1].kind:
            yield run[0].kind, run
            run = []
        run.append(block)
    if run:
        yield run[0].kind, run


def sections(blocks: list[Block]) -> list[tuple[str, list[Block]]]:
    """Split at the `##` headings, as slides and sheets need it, and drop what stands before the first."""
    parts: list[tuple[str, list[Block]]] = []
    for block in blocks:
        if block.kind == "h2":
            parts.append((block.text, []))
        elif parts:
            parts[-1][1].append(block)
    return parts


def write_zip(members: dict[str, bytes]) -> bytes:
    """Pack members in the given order with a fixed time and fixed attributes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, blob in members.items():
            info = zipfile.ZipInfo(name, STAMP.timetuple()[:6])
            info.create_system, info.external_attr, info.compress_type = 3, 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, blob)
    return buffer.getvalue()


def read_zip(blob: bytes) -> dict[str, bytes]:
    """Unpack every member into memory."""
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _frozen(save) -> bytes:
    """Save an office document and take the clock out of it."""
    buffer = io.BytesIO()
    save(buffer)
    members = read_zip(buffer.getvalue())
    stamp = STAMP.isoformat().encode() + b"Z"
    core = members["docProps/core.xml"]
    members["docProps/core.xml"] = re.sub(rb"(<dcterms:\w+ [^>]*>)[^<]*", rb"\g<1>" + stamp, core)
    return write_zip(members)


def write_docx(name: str, text: str) -> bytes:
    """Write a Word document with real headings, lists and tables."""
    document = docx.Document()
    document.core_properties.author, document.core_properties.title = AUTHOR, name
    document.core_properties.comments = ""
    for kind, run in grouped(parse_blocks(text)):
        if kind == "row":
            _add_docx_table(document, run)
            continue
        for block in run:
            if kind.startswith("h"):
                document.add_heading(block.text, level=int(kind[1]))
            else:
                document.add_paragraph(block.text, style=DOCX_STYLES[kind])
    return _frozen(document.save)


def _add_docx_table(document, run: list[Block]) -> None:
    table = document.add_table(rows=0, cols=len(run[0].cells), style="Table Grid")
    for block in run:
        for cell, value in zip(table.add_row().cells, block.cells, strict=True):
            cell.text = value


def write_pptx(name: str, text: str) -> bytes:
    """Write slides: the `#` heading and first paragraph on the title slide, then one slide a `##` heading."""
    deck = pptx.Presentation()
    deck.core_properties.author, deck.core_properties.title = AUTHOR, name
    blocks = parse_blocks(text)
    cover = deck.slides.add_slide(deck.slide_layouts[0])
    cover.shapes.title.text, cover.placeholders[1].text = blocks[0].text, blocks[1].text
    for title, body in sections(blocks):
        _add_slide(deck, title, body)
    return _frozen(deck.save)


def _add_slide(deck, title: str, body: list[Block]) -> None:
    rows = [block for block in body if block.kind == "row"]
    notes = [block.text.removeprefix("Notes: ") for block in body if block.text.startswith("Notes: ")]
    lines = [block.text for block in body if block.kind != "row" and not block.text.startswith("Notes: ")]
    slide = deck.slides.add_slide(deck.slide_layouts[1 if lines else 5])
    slide.shapes.title.text = title
    if lines:
        slide.placeholders[1].text = "\n".join(lines)
    if rows:
        _add_slide_table(slide, rows, top=4.4 if lines else 1.8)
    if notes:
        slide.notes_slide.notes_text_frame.text = "\n".join(notes)


def _add_slide_table(slide, rows: list[Block], top: float) -> None:
    size = Inches(0.7), Inches(top), Inches(8.6), Inches(0.4 * len(rows))
    table = slide.shapes.add_table(len(rows), len(rows[0].cells), *size).table
    for y, row in enumerate(rows):
        for x, value in enumerate(row.cells):
            table.cell(y, x).text = value


def write_xlsx(name: str, text: str) -> bytes:
    """Write a workbook with one sheet a `##` heading; numbers are stored as numbers."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    book.properties.creator, book.properties.title = AUTHOR, name
    for title, body in sections(parse_blocks(text)):
        sheet = book.create_sheet(title)
        for row, block in enumerate(body, start=1):
            for column, value in enumerate(block.cells or (block.text,), start=1):
                sheet.cell(row, column, _number(value))
        for cell in sheet[1]:
            cell.font = Font(bold=True)
            sheet.column_dimensions[cell.column_letter].width = 22
    return _frozen(book.save)


def _number(value: str) -> str | int | float | None:
    if re.fullmatch(r"-?\d+", value):
        return int(value)
    return float(value) if re.fullmatch(r"-?\d+\.\d+", value) else value or None


def write_pdf(name: str, text: str) -> bytes:
    """Write an A4 PDF with a text layer, ruled tables and page numbers; stable, as nothing is compressed."""
    buffer = io.BytesIO()
    page = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        invariant=1,
        pageCompression=0,
        title=name,
        author=AUTHOR,
        topMargin=64,
        bottomMargin=64,
    )
    story = [flow for kind, run in grouped(parse_blocks(text)) for flow in _pdf_flow(kind, run)]
    page.build(story, onFirstPage=_footer, onLaterPages=_footer)
    return buffer.getvalue()


def _pdf_flow(kind: str, run: list[Block]) -> list[Flowable]:
    if kind == "row":
        cells = [[_pdf_text(cell, "BodyText") for cell in block.cells] for block in run]
        return [Table(cells, style=RULED, repeatRows=1), Spacer(1, 10)]
    if kind in ("bullet", "step"):
        items = [_pdf_text(block.text, "BodyText") for block in run]
        return [PdfList(items, bulletType="bullet" if kind == "bullet" else "1")]
    style = {"h1": "Title", "h2": "Heading2", "h3": "Heading3"}.get(kind, "BodyText")
    return [_pdf_text(block.text, style) for block in run]


def _pdf_text(text: str, style: str) -> Paragraph:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return Paragraph(escaped, STYLES[style])


def _footer(canvas, page) -> None:
    canvas.setFont("Helvetica", 8)
    canvas.drawString(72, 36, f"{AUTHOR} - {page.title} - page {page.page}")


def write_eml(name: str, text: str) -> bytes:
    """Write an e-mail: header lines, an empty line, the text, perhaps `--- attach: NAME` and its content."""
    head, body = text.split("\n\n", 1)
    body, *attachments = re.split(r"^--- attach: ", body, flags=re.MULTILINE)
    mail = EmailMessage(policy=SMTP)
    for line in head.splitlines():
        mail[line.split(": ", 1)[0]] = line.split(": ", 1)[1]
    mail["Message-ID"] = f"<{name}@tolvane.example>"
    mail.set_content(body, cte="quoted-printable")
    for attachment in attachments:
        filename, content = attachment.split("\n", 1)
        kind = "csv" if filename.endswith(".csv") else "plain"
        mail.add_attachment(content, subtype=kind, filename=filename, cte="quoted-printable")
    if attachments:
        mail.set_boundary(f"=_{name}")
    return mail.as_bytes()


WRITERS = {"docx": write_docx, "pptx": write_pptx, "xlsx": write_xlsx, "pdf": write_pdf, "eml": write_eml}
