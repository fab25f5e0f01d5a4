"""Read Excel workbooks: an island of cells is a table, its sheet a heading. Values read as shown.

openpyxl is used, not unstructured's partitioner: that one goes through pandas, which turns 12 into 12.0
beside an empty cell and 15 % into 0.15. Knows nothing of other formats.
"""

import io
import re
import zipfile
from bisect import bisect
from collections.abc import Iterable, Iterator
from typing import Any

import openpyxl

from factory.readers.archive import check_office
from factory.readers.assemble import prettify_name
from factory.readers.cellformat import format_value
from factory.readers.contract import Block, Limits, Parsed, ReadError
from factory.readers.office import read_core

# openpyxl needs about 50 bytes of memory a byte of sheet XML.
MAX_SHEET_BYTES = 64 << 20
UNCALCULATED = re.compile(rb"<f[ >][^<]*(?:</f>)?\s*(?:<v\s*/>|<v></v>|</c>)")
MAX_COLUMNS = 16_384  # of Excel; a damaged file may state any number
UNSEEN_FORMAT = ";;;"  # Excel's way to show nothing, whatever the value
Grid = dict[int, dict[int, str]]


def read_xlsx(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return what a workbook shows: a heading for each sheet, then tables and lone texts in reading order."""
    check_office(data, limits)
    num_uncalculated = _look_at_sheets(data)
    book = openpyxl.load_workbook(io.BytesIO(data), data_only=True, keep_links=False)
    blocks: list[Block] = []
    for sheet in book.worksheets:
        if sheet.sheet_state != "visible":
            continue
        found = [
            block for island in _islands(_read_grid(sheet)) for block in _island_blocks(island, sheet.title)
        ]
        if found:
            blocks += [Block("heading", sheet.title, sheet=sheet.title), *found]
    title, metadata = read_core(book.properties)
    if num_uncalculated:
        metadata["formulas_without_values"] = str(num_uncalculated)
    return Parsed(blocks, title or prettify_name(name), metadata)


def _look_at_sheets(data: bytes) -> int:
    """Return how many formulas have no stored value; refuse sheets too large to hold in memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sheets = [info for info in archive.infolist() if info.filename.startswith("xl/worksheets/")]
        size = sum(info.file_size for info in sheets)
        if size > MAX_SHEET_BYTES:
            raise ReadError(
                "too_large",
                f"Its sheets unpack to {size >> 20:,} MiB (limit {MAX_SHEET_BYTES >> 20}): save it as CSV.",
            )
        return sum(len(UNCALCULATED.findall(archive.read(info))) for info in sheets)


def _read_grid(sheet: Any) -> Grid:
    """Return the texts of a sheet's visible cells by row and column, as if the hidden ones were not there.

    Cells merged downwards repeat their text.
    """
    grid: Grid = {}
    for (row, column), cell in sheet._cells.items():
        text = " ".join(format_value(cell.value, cell.number_format).split())
        if text and cell.number_format != UNSEEN_FORMAT:
            grid.setdefault(row, {})[column] = text
    rows, columns = _hidden_rows(sheet), _hidden_columns(sheet)
    _fill_merged(sheet, grid, columns)
    row_places = _places(grid, rows)
    column_places = _places({column for cells in grid.values() for column in cells}, columns)
    shown = {
        place: {column_places[column]: text for column, text in grid[row].items() if column in column_places}
        for row, place in row_places.items()
    }
    return {row: cells for row, cells in shown.items() if cells}


def _fill_merged(sheet: Any, grid: Grid, hidden: set[int]) -> None:
    """Write the text of merged cells into the first visible column of each of their rows."""
    last = max(grid, default=0)
    for merged in sheet.merged_cells.ranges:
        text = grid.get(merged.min_row, {}).get(merged.min_col, "")
        shown = next((c for c in range(merged.min_col, merged.max_col + 1) if c not in hidden), None)
        for row in range(merged.min_row, min(merged.max_row, last) + 1):
            if text and shown and row in grid:
                grid[row][shown] = text


def _places(numbers: Iterable[int], hidden: set[int]) -> dict[int, int]:
    """Return where each visible row or column stands when the hidden ones before it do not count."""
    order = sorted(hidden)
    return {number: number - bisect(order, number) for number in numbers if number not in hidden}


def _hidden_rows(sheet: Any) -> set[int]:
    return {row for row, look in sheet.row_dimensions.items() if look.hidden or look.ht == 0}


def _hidden_columns(sheet: Any) -> set[int]:
    """Return the numbers of hidden columns; a file states them as ranges."""
    hidden = [look for look in sheet.column_dimensions.values() if look.hidden or look.width == 0]
    for look in hidden:
        look.reindex()
    ranges = (range(max(look.min, 1), min(look.max, MAX_COLUMNS) + 1) for look in hidden)
    return {column for numbers in ranges for column in numbers}


def _islands(grid: Grid) -> Iterator[list[list[str]]]:
    """Yield the rectangles of cells that empty rows, then empty columns, keep apart."""
    for rows in _runs(sorted(grid)):
        columns = sorted({column for row in rows for column in grid[row]})
        for run in _runs(columns):
            cells = [[grid[row].get(column, "") for column in run] for row in rows]
            yield [row for row in cells if any(row)]


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    run: list[int] = []
    for number in numbers:
        if run and number > run[-1] + 1:
            yield run
            run = []
        run.append(number)
    if run:
        yield run


def _island_blocks(rows: list[list[str]], sheet: str) -> Iterator[Block]:
    """Yield lone texts above and below a table as paragraphs, and the table between them."""
    widths = [sum(map(bool, row)) for row in rows]
    wide = [number for number, width in enumerate(widths) if width > 1]
    first, last = (wide[0], wide[-1]) if wide else (len(rows), len(rows))
    for number, row in enumerate(rows):
        if number == first:
            yield Block("table", sheet=sheet, cells=tuple(map(tuple, rows[first : last + 1])))
        elif not first < number <= last:
            yield Block("paragraph", next(filter(None, row)), sheet=sheet)
