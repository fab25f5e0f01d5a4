"""Join a reader's blocks into one Document whose spans are exact. Knows rows and blocks, no file format."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from factory.readers.contract import Block, Cells, Parsed
from factory.rows import Document, Element
from factory.text.clean import clean_lines, flatten_text

SEPARATOR = "\n\n"
UNTITLED = re.compile(
    r"(?:(?:untitled|document|presentation|workbook|sheet)[ -]?\d*|microsoft (?:word|powerpoint|excel)\b.*)$",
    re.I,
)
# Exporters put the file's own name into the title: 'travel-policy_v3'.
SLUG = re.compile(r"^\S*[-_]\S*$")
FILE_NAME = re.compile(r"\.(docx?|pptx?|xlsx?|pdf|html?|md|txt|indd|rtf|odt)$", re.I)


def assemble_document(parsed: Parsed, *, path: str, sha256: str, format_name: str) -> Document:
    """Return the document of a parsed file: `text` is the elements' texts with a blank line between them."""
    blocks = [block for block in map(_clean_block, parsed.blocks) if block.text]
    title = _choose_title(parsed, blocks, path)
    text, elements = _place(blocks, title)
    metadata = {key: flatten_text(value) for key, value in sorted(parsed.metadata.items()) if value.strip()}
    return Document(
        path=path,
        sha256=sha256,
        format=format_name,
        title=title,
        text=text,
        elements=elements,
        metadata=metadata,
    )


def render_table(cells: Cells) -> str:
    """Return rows of cells as a Markdown pipe table whose first row is the header."""
    header, *body = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([header, f"| {' | '.join('---' for _ in cells[0])} |", *body])


def prettify_name(path: str) -> str:
    """Return a file's name as a title: 'hr/travel_policy-v2.md' reads 'Travel policy v2'."""
    name = PurePosixPath(path.rsplit("!/", 1)[-1]).name
    words = flatten_text(re.sub(r"[_\-\s]+", " ", PurePosixPath(name).stem))
    return (words[:1].upper() + words[1:]) or flatten_text(name) or "Untitled"


def _clean_block(block: Block) -> Block:
    if block.cells is not None:
        cells = _clean_cells(block.cells)
        text = render_table(cells) if cells else ""
        return Block("table", text, page=block.page, sheet=block.sheet, cells=cells or None)
    clean = clean_lines if block.kind == "code" else flatten_text
    return Block(block.kind, clean(block.text), block.level, block.page, block.sheet)


def _clean_cells(cells: Cells) -> Cells:
    """Normalise and escape cells, drop empty rows and columns, and make every row equally long."""
    rows = [[flatten_text(cell).replace("\\|", "|").replace("|", "\\|") for cell in row] for row in cells]
    rows = [row for row in rows if any(row)]
    width = max(map(len, rows), default=0)
    rows = [row + [""] * (width - len(row)) for row in rows]
    kept = [column for column in range(width) if any(row[column] for row in rows)]
    return tuple(tuple(row[column] for column in kept) for row in rows)


def _choose_title(parsed: Parsed, blocks: Iterable[Block], path: str) -> str:
    stated = flatten_text(parsed.title)
    if stated and not UNTITLED.match(stated) and not FILE_NAME.search(stated) and not SLUG.match(stated):
        return stated
    first = next((block.text for block in blocks if block.kind == "heading" and block.level == 1), "")
    return first or prettify_name(path)


def _place(blocks: Iterable[Block], title: str) -> tuple[str, tuple[Element, ...]]:
    elements: list[Element] = []
    above: list[tuple[int, str]] = []
    position = 0
    for block in blocks:
        if block.kind == "heading":
            above = [(level, text) for level, text in above if level < block.level]
        path = tuple(text for _, text in above)
        path = path[1:] if path and path[0].casefold() == title.casefold() else path
        end = position + len(block.text)
        elements.append(
            Element(
                kind=block.kind,
                text=block.text,
                start=position,
                end=end,
                heading_path=path,
                page=block.page,
                sheet=block.sheet,
                cells=block.cells,
            )
        )
        position = end + len(SEPARATOR)
        if block.kind == "heading":
            above.append((block.level, block.text))
    return SEPARATOR.join(element.text for element in elements), tuple(elements)
