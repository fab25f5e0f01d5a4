"""Turn the measured lines and tables of pages into blocks. Knows geometry and type sizes, not PDF."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median

from factory.readers.contract import Block, Cells
from factory.readers.plain import BULLET

HEADING_RATIO = 1.12
MAX_HEADING_CHARS = 160
# A gap this much of the type size beyond the usual one begins a new paragraph.
PARAGRAPH_GAP = 0.3
MARGIN_SHARE = 0.1
MIN_REPEATED_SHARE = 0.6
PAGE_NUMBER = re.compile(r"^\W*(?:page\s+)?\d+(?:\s*(?:of|/)\s*\d+)?\W*$", re.I)
STEP = re.compile(r"^(\d{1,2})\s+(?=[A-Z])")
# pdfium's mark for a hyphen that only breaks a line.
BROKEN_WORD = "\x02"


@dataclass(frozen=True)
class Line:
    """One line of text; y grows upwards, `size` is the height of its type in points."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float
    bold: bool


@dataclass(frozen=True)
class Table:
    """A table's cells and where it stands."""

    cells: Cells
    left: float
    bottom: float
    right: float
    top: float

    def holds(self, line: Line) -> bool:
        """Whether the line's middle lies inside the table."""
        middle = (line.top + line.bottom) / 2
        return self.bottom <= middle <= self.top and line.left < self.right and line.right > self.left


@dataclass
class PdfPage:
    """What was measured on one page."""

    number: int
    height: float
    lines: list[Line]
    has_paths: bool = False
    has_images: bool = False
    tables: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """A block in the making and the line it ends with; None after a table."""

    block: Block
    last: Line | None
    step: int = 0


def page_blocks(pages: list[PdfPage]) -> list[Block]:
    """Return the blocks of all pages in reading order, joined over page breaks, without running heads."""
    return _join_pages(pages, _find_repeated(pages)) or _join_pages(pages, set())


def _join_pages(pages: list[PdfPage], repeated: set[str]) -> list[Block]:
    body, gap = _usual_size(pages), _usual_gap(pages)
    levels = _heading_levels(pages, body)
    pieces: list[_Piece] = []
    for page in pages:
        for item in _page_items(page, repeated):
            if isinstance(item, Table):
                _add_table(pieces, item, page.number)
            else:
                _add_line(pieces, item, page.number, levels, gap)
    return [replace(piece.block, text=piece.block.text.replace(BROKEN_WORD, "")) for piece in pieces]


def _page_items(page: PdfPage, repeated: set[str]) -> Iterator[Line | Table]:
    """Yield the page's lines, each table in place of the first line it holds."""
    waiting = list(page.tables)
    edges = _edge_lines(page)
    for line in page.lines:
        if line in edges and (_pattern(line) in repeated or PAGE_NUMBER.match(line.text)):
            continue
        table = next((table for table in page.tables if table.holds(line)), None)
        if table is None:
            yield line
        elif table in waiting:
            waiting.remove(table)
            yield table
    yield from waiting


def _edge_lines(page: PdfPage) -> list[Line]:
    """Return the lines in the top and bottom margins, where headers and footers stand."""
    margin = MARGIN_SHARE * page.height
    return [line for line in page.lines if line.bottom > page.height - margin or line.top < margin]


def _pattern(line: Line) -> str:
    return re.sub(r"\d+", "#", " ".join(line.text.split()))


def _find_repeated(pages: list[PdfPage]) -> set[str]:
    """Return the patterns of headers and footers: on most pages; of two pages, only with a number in them."""
    counts = Counter(pattern for page in pages for pattern in {_pattern(line) for line in _edge_lines(page)})
    return {
        pattern
        for pattern, count in counts.items()
        if count >= max(2, MIN_REPEATED_SHARE * len(pages)) and (len(pages) > 2 or "#" in pattern)
    }


def _usual_size(pages: list[PdfPage]) -> float:
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            sizes[line.size] += len(line.text)
    return max(sizes, key=lambda size: (sizes[size], -size), default=0.0)


def _usual_gap(pages: list[PdfPage]) -> float:
    """Return the median distance between lines of a page that follow each other downwards."""
    pairs = (
        (above, below) for page in pages for above, below in zip(page.lines, page.lines[1:], strict=False)
    )
    gaps = [above.bottom - below.top for above, below in pairs if below.top < above.top]
    return median(gaps) if gaps else 0.0


def _heading_levels(pages: list[PdfPage], body: float) -> dict[tuple[float, bool], int]:
    """Return a level for each larger type size, the largest first, and one for bold lines of body size."""
    lines = [line for page in pages for line in page.lines if _may_head(line)]
    sizes = sorted({line.size for line in lines if line.size >= body * HEADING_RATIO}, reverse=True)
    levels = {(size, bold): level for level, size in enumerate(sizes, 1) for bold in (False, True)}
    levels[body, True] = len(sizes) + 1
    return levels


def _may_head(line: Line) -> bool:
    return len(line.text) <= MAX_HEADING_CHARS and sum(map(str.isalpha, line.text)) > len(line.text) / 3


def _add_table(pieces: list[_Piece], table: Table, page: int) -> None:
    """Append a table; one that goes on from the page before is joined to it, without its repeated header."""
    before = pieces[-1].block if pieces else None
    if before and before.cells and before.page == page - 1 and len(before.cells[0]) == len(table.cells[0]):
        rows = table.cells[1:] if table.cells[0] == before.cells[0] else table.cells
        pieces[-1] = _Piece(replace(before, cells=before.cells + rows), None)
    else:
        pieces.append(_Piece(Block("table", page=page, cells=table.cells), None))


def _add_line(
    pieces: list[_Piece], line: Line, page: int, levels: dict[tuple[float, bool], int], gap: float
) -> None:
    level = levels.get((line.size, line.bold), 0) if _may_head(line) else 0
    before = pieces[-1] if pieces else None
    number, text = _list_item(line, before)
    if level and not text:
        if before and _goes_on_heading(before, line, page, level, gap):
            pieces[-1] = _Piece(replace(before.block, text=_join(before.block.text, line.text)), line)
        else:
            pieces.append(_Piece(Block("heading", line.text, level, page), line))
    elif text:
        pieces.append(_Piece(Block("list_item", text, page=page), line, number))
    elif before and _goes_on(before, line, page, gap):
        pieces[-1] = _Piece(
            replace(before.block, text=_join(before.block.text, line.text)), line, before.step
        )
    else:
        pieces.append(_Piece(Block("paragraph", line.text, page=page), line))


def _list_item(line: Line, before: _Piece | None) -> tuple[int, str]:
    """Return a step's number and the item's text; the text is empty for a line that begins no item."""
    if BULLET.match(line.text):
        return 0, BULLET.sub("", line.text)
    step = STEP.match(line.text)
    if step and int(step[1]) in (1, before.step + 1 if before and before.step else 1) and not line.bold:
        return int(step[1]), line.text[step.end() :]
    return 0, ""


def _goes_on_heading(before: _Piece, line: Line, page: int, level: int, gap: float) -> bool:
    same = before.block.kind == "heading" and before.block.level == level and before.block.page == page
    return (
        same and before.last is not None and before.last.bottom - line.top <= gap + PARAGRAPH_GAP * line.size
    )


def _goes_on(before: _Piece, line: Line, page: int, gap: float) -> bool:
    """Whether a line belongs to the paragraph or item before it."""
    if before.last is None or before.block.kind == "heading":
        return False
    if before.block.page == page and before.last.top > line.top:
        return before.last.bottom - line.top <= gap + PARAGRAPH_GAP * line.size
    return line.text[:1].islower() and before.block.text.rstrip()[-1:] not in ".!?:"


def _join(text: str, more: str) -> str:
    if text.endswith(BROKEN_WORD) or (text.endswith("-") and more[:1].islower()):
        return text.rstrip(BROKEN_WORD) + more
    return f"{text} {more}"
