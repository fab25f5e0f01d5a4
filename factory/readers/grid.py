"""Make HTML tables rectangular and read their cells. Knows table markup only."""

from typing import Any

from lxml import html as lxml_html

from factory.readers.contract import Cells

MAX_SPAN = 200
MAX_GRID_CELLS = 200_000
BLOCKS_IN_CELL = ("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "pre")


def square_table(table: Any) -> None:
    """Repeat spanning cells so that every row has all columns; unfold a table that only lays out a page."""
    if _lays_out(table):
        for node in list(table.iter("table", "thead", "tbody", "tfoot", "tr", "td", "th", "caption")):
            node.tag = "div"
        return
    for node in table.iter("br"):
        node.tail = f" {node.tail or ''}"
    grid: dict[tuple[int, int], tuple[str, str]] = {}
    rows = [row for row in table.iter("tr") if next(row.iterancestors("table")) is table]
    for number, row in enumerate(rows):
        column = 0
        for cell in row.iterchildren("td", "th"):
            while (number, column) in grid:
                column += 1
            _fill(grid, number, column, cell, len(rows))
    width = max((column for _, column in grid), default=-1) + 1
    for number, row in enumerate(rows):
        _rewrite(row, [grid.get((number, column), ("td", "")) for column in range(width)])


def read_cells(table_html: str) -> tuple[str, Cells]:
    """Return the caption and the rows of cells of one table's HTML."""
    if not table_html:
        return "", ()
    table = lxml_html.fragment_fromstring(table_html)
    caption = next((node.text_content().strip() for node in table.iter("caption")), "")
    rows = tuple(
        tuple(cell.text_content() for cell in row.iterchildren("td", "th")) for row in table.iter("tr")
    )
    return caption, rows


def _lays_out(table: Any) -> bool:
    if next(table.iter("th"), None) is not None:
        return False
    one_cell = all(len(list(row.iterchildren("td"))) < 2 for row in table.iter("tr"))
    return one_cell or any(next(cell.iter(*BLOCKS_IN_CELL), None) is not None for cell in table.iter("td"))


def _fill(
    grid: dict[tuple[int, int], tuple[str, str]], row: int, column: int, cell: Any, num_rows: int
) -> None:
    text = " ".join(cell.text_content().split())
    down = min(_span(cell, "rowspan"), num_rows - row)
    for y in range(row, row + down):
        for x in range(column, column + _span(cell, "colspan")):
            if len(grid) < MAX_GRID_CELLS:
                grid.setdefault((y, x), (cell.tag, text))


def _span(cell: Any, name: str) -> int:
    value = cell.get(name, "1")
    return min(max(int(value), 1), MAX_SPAN) if value.isdecimal() else 1


def _rewrite(row: Any, cells: list[tuple[str, str]]) -> None:
    tail = row.tail
    row.clear()
    row.tail = tail
    for tag, text in cells:
        cell = lxml_html.Element(tag)
        cell.text = text
        row.append(cell)
