import datetime as dt
import zipfile
from io import BytesIO

import openpyxl
import pytest

from factory.readers.cellformat import format_value


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (None, "General", ""),
        (12.0, "General", "12"),
        (0.1 + 0.2, "General", "0.3"),
        (0.15, "0%", "15%"),
        (0.155, "0.0%", "15.5%"),
        (1234.5, '"£"#,##0.00', "£1,234.50"),
        (1234.5, "[$€-407] #,##0.00;[Red]-#,##0.00", "€ 1,234.50"),
        (-3, "0", "-3"),
        (7, "000", "007"),
        (7, "#,##0", "7"),
        (1.5, "0.##", "1.5"),
        (2.0, "0.##", "2"),
        (64, '0 "kg"', "64 kg"),
        (True, "General", "TRUE"),
        (dt.datetime(2026, 2, 1), "dd/mm/yyyy", "2026-02-01"),
        (dt.datetime(2026, 2, 1, 14, 30), "General", "2026-02-01 14:30"),
        (dt.time(9, 5), "hh:mm", "09:05"),
        ("#REF!", "General", ""),
        ("007", "@", "007"),
    ],
)
def test_values_read_as_shown(value, number_format, shown):
    assert format_value(value, number_format) == shown


def test_sheets_are_headings_and_islands_of_cells_tables(read_one, make):
    document = read_one("prices.xlsx", make.xlsx())
    heading, table, note = document.elements
    assert (heading.kind, heading.text) == ("heading", "Oil")
    assert table.cells == (
        ("Part", "Litres", "Price"),
        ("Zephyrine pump", "42", "£9.50"),
        ("filter", "", "15%"),
    )
    assert (table.sheet, table.heading_path) == ("Oil", ("Oil",))
    assert note.text == "Prices without VAT."
    assert "hidden sheet" not in document.text


def test_tables_apart_are_two_and_merged_rows_repeat(read_one, make):
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["Hall", "Bay"], ["Larch", "L1"], [None, "L2"]):
        sheet.append(row)
    sheet.merge_cells("A2:A3")
    for row, column, text in [(1, 4, "x"), (1, 5, "y"), (2, 4, "1"), (2, 5, "2")]:
        sheet.cell(row, column).value = text
    tables = [item.cells for item in read_one("a.xlsx", make.saved(book)).elements if item.kind == "table"]
    assert tables == [(("Hall", "Bay"), ("Larch", "L1"), ("Larch", "L2")), (("x", "y"), ("1", "2"))]


def hidden_prices():
    """Return a workbook of which row 3, columns C to D and column F are hidden."""
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (
        ["Part", "Litres", "Cost", "Margin", "Price", "Supplier"],
        ["pump", 42, "£3", "66%", "£9", "Kestrel"],
        ["valve", 7, "£1", "50%", "£2", "Ambleford"],
        ["filter", 1, "£2", "60%", "£5", "Brannoch"],
    ):
        sheet.append(row)
    sheet.column_dimensions.group("C", "D", hidden=True)
    sheet.column_dimensions["F"].hidden = True
    sheet.row_dimensions[3].hidden = True
    return book


def test_hidden_columns_and_rows_are_not_read_and_do_not_cut_the_table(read_one, make):
    book = hidden_prices()
    (table,) = [item for item in read_one("a.xlsx", make.saved(book)).elements if item.kind == "table"]
    assert table.cells == (("Part", "Litres", "Price"), ("pump", "42", "£9"), ("filter", "1", "£5"))


def test_a_merged_cell_is_read_where_part_of_it_shows(read_one, make):
    book = hidden_prices()
    book.active.merge_cells("D2:E4")
    (table,) = [item for item in read_one("a.xlsx", make.saved(book)).elements if item.kind == "table"]
    assert table.cells == (("Part", "Litres", "Price"), ("pump", "42", "66%"), ("filter", "1", "66%"))


def test_cells_formatted_to_show_nothing_are_not_read(read_one, make):
    book = openpyxl.Workbook()
    book.active.append(["pump", "secret", "valve"])
    book.active["B1"].number_format = ";;;"
    assert "secret" not in read_one("a.xlsx", make.saved(book)).text


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("<sheetData>", '<cols><col min="2" max="999999999" hidden="1"/></cols><sheetData>', False),
        ("<sheetData>", '<cols><col min="2" max="2" width="0"/></cols><sheetData>', False),
        ('<row r="2"', '<row r="2" ht="0"', False),
        ('<row r="2"', '<row r="2" ht="15"', True),
    ],
)
def test_columns_and_rows_without_any_size_are_hidden_too(read_one, make, old, new, shown):
    file = BytesIO()
    with zipfile.ZipFile(BytesIO(make.xlsx())) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(old.encode(), new.encode()))
    text = read_one("prices.xlsx", file.getvalue()).text
    assert ("42" in text, "filter" in text) == (shown, True)


def test_formulas_without_values_are_counted(read_one, make):
    book = openpyxl.Workbook()
    book.active.append(["sum", 1])
    book.active.append(["total", "=B1*2"])
    assert read_one("a.xlsx", make.saved(book)).metadata["formulas_without_values"] == "1"


def test_a_cell_in_the_last_row_costs_nothing(read_one, make):
    book = openpyxl.Workbook()
    book.active["A1"], book.active.cell(1_048_576, 16_384).value = "first", "last"
    assert "last" in read_one("a.xlsx", make.saved(book)).text


def test_sheets_of_absurd_size_are_refused(refusal, make):
    file = BytesIO()
    row = b"<row>" + b'<c t="n"><v>1</v></c>' * 1000 + b"</row>"
    with zipfile.ZipFile(BytesIO(make.xlsx())) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("xl/worksheets/sheet9.xml", b"<worksheet><sheetData>" + row * 3300)
    assert refusal("a.xlsx", file.getvalue(), max_archive_bytes=1 << 30) == "too_large"
