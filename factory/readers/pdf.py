"""Read PDFs: text from pdfium, ruled tables from pdfplumber. Recognises no scans and fills no forms.

unstructured's own PDF path finds no tables and needs torch's relatives, so it is not used.
"""

import io
import re
from collections.abc import Iterator
from typing import Any

import pdfplumber
import pypdfium2
import pypdfium2.raw as pdfium

from factory.readers.contract import Cells, Limits, Parsed, ReadError
from factory.readers.lines import Line, PdfPage, Table, page_blocks

PASSWORD_ERROR = 4
MIN_FILLED_SHARE = 0.5
MIN_CHARS_PER_PAGE = 8
# What ReportLab and others write when nothing was stated.
STOCK_VALUES = {"", "unspecified", "anonymous", "untitled", "unknown"}
FIELDS = {"Author": "author", "Subject": "subject", "CreationDate": "created", "ModDate": "modified"}


def read_pdf(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a PDF's blocks with page numbers; repeated headers and footers are left out."""
    document = _open(data)
    try:
        if len(document) > limits.max_pages:
            raise ReadError(
                "too_large", f"It has {len(document):,} pages (limit {limits.max_pages:,}): split it."
            )
        info = document.get_metadata_dict(skip_empty=True)
        pages = [_read_page(document, number) for number in range(len(document))]
    finally:
        document.close()
    _refuse_scans(pages)
    _add_tables(pages, data)
    return Parsed(page_blocks(pages), _state(info.get("Title", "")), _metadata(info, pages))


def _open(data: bytes) -> Any:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code == PASSWORD_ERROR:
            raise ReadError("encrypted", "The PDF is locked with a password: save it without one.") from error
        raise ReadError("corrupt", f"The PDF is damaged ({error}): export it again.") from error


def _read_page(document: Any, number: int) -> PdfPage:
    page = document[number]
    text_page = page.get_textpage()
    try:
        kinds = [
            pdfium.FPDFPageObj_GetType(pdfium.FPDFPage_GetObject(page, i))
            for i in range(pdfium.FPDFPage_CountObjects(page))
        ]
        return PdfPage(
            number + 1,
            page.get_height(),
            list(_read_lines(text_page)),
            has_paths=pdfium.FPDF_PAGEOBJ_PATH in kinds,
            has_images=pdfium.FPDF_PAGEOBJ_IMAGE in kinds,
        )
    finally:
        text_page.close()
        page.close()


def _read_lines(text_page: Any) -> Iterator[Line]:
    """Yield the lines as pdfium orders them; it ends each with a generated line break."""
    start = 0
    characters = [
        chr(pdfium.FPDFText_GetUnicode(text_page, index)) for index in range(text_page.count_chars())
    ]
    for index, character in enumerate([*characters, "\n"]):
        if character == "\n":
            text = "".join(characters[start:index]).rstrip("\r")
            if text.strip():
                first = start + len(text) - len(text.lstrip())
                yield _measure(text_page, text.strip(" \t\r"), first, start + len(text.rstrip(" \x02")) - 1)
            start = index + 1


def _measure(text_page: Any, text: str, first: int, last: int) -> Line:
    left, bottom, _, top = _box(text_page, first)
    _, last_bottom, right, last_top = _box(text_page, last)
    return Line(
        text,
        left,
        min(bottom, last_bottom),
        right,
        max(top, last_top),
        round(top - bottom, 1),
        _is_bold(text_page, first),
    )


def _box(text_page: Any, index: int) -> tuple[float, float, float, float]:
    box = pdfium.FS_RECTF()
    pdfium.FPDFText_GetLooseCharBox(text_page, index, box)
    return box.left, box.bottom, box.right, box.top


def _is_bold(text_page: Any, index: int) -> bool:
    buffer, flags = (pdfium.c_char * 128)(), pdfium.c_int()
    length = pdfium.FPDFText_GetFontInfo(text_page, index, buffer, 128, flags)
    return bool(length) and re.search(rb"bold|black|heavy|semib", buffer.value, re.I) is not None


def _refuse_scans(pages: list[PdfPage]) -> None:
    characters = sum(len(line.text) for page in pages for line in page.lines)
    if not characters or (
        characters < MIN_CHARS_PER_PAGE * len(pages) and any(page.has_images for page in pages)
    ):
        raise ReadError(
            "no_text",
            f"The PDF has {characters} characters on {len(pages)} page(s), so it is a scan or drawing: "
            "run text recognition (OCR) on it first.",
        )


def _add_tables(pages: list[PdfPage], data: bytes) -> None:
    """Look for tables on the pages that have ruled lines, and hand them to their page."""
    ruled = [page for page in pages if page.has_paths]
    if not ruled:
        return
    with pdfplumber.open(io.BytesIO(data)) as document:
        for page in ruled:
            plumbed = document.pages[page.number - 1]
            for found in plumbed.find_tables():
                cells = _cells(found.extract())
                if cells:
                    left, top, right, bottom = found.bbox
                    page.tables.append(Table(cells, left, page.height - bottom, right, page.height - top))
            plumbed.close()


def _cells(rows: list[list[str | None]]) -> Cells:
    """Return a table's cells, or nothing when it is a frame or a form rather than a table."""
    cells = tuple(tuple(" ".join((cell or "").split()) for cell in row) for row in rows)
    filled = sum(map(bool, (cell for row in cells for cell in row)))
    total = sum(map(len, cells))
    if len(cells) < 2 or len(cells[0]) < 2 or filled < MIN_FILLED_SHARE * total:
        return ()
    return cells


def _state(value: str) -> str:
    return "" if value.strip("()").lower() in STOCK_VALUES else value


def _metadata(info: dict[str, str], pages: list[PdfPage]) -> dict[str, str]:
    metadata = {name: _state(info.get(key, "")) for key, name in FIELDS.items()}
    for name in ("created", "modified"):
        date = re.match(r"D:(\d{4})(\d\d)(\d\d)", metadata[name])
        metadata[name] = "-".join(date.groups()) if date else ""
    blank = [str(page.number) for page in pages if not page.lines and page.has_images]
    return metadata | {"pages": str(len(pages)), "pages_without_text": ", ".join(blank)}
