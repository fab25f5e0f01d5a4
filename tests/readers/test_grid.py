"""Tables made rectangular: spans are repeated, layout tables unfolded, and no span is taken at its word."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html

from factory.readers import grid

ROW = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=4)


def _square(page: str):
    table = html.fragment_fromstring(page)
    grid.square_table(table)
    return table


def _cells(page: str):
    return grid.read_cells(html.tostring(_square(page), encoding="unicode"))[1]


def test_a_cell_that_spans_is_repeated_where_it_reaches_and_moves_the_others() -> None:
    page = """<table><tr><th rowspan=2>Hall</th><th colspan=2>Bays</th></tr><tr><th>East</th><th>West</th></tr>
      <tr><td>Larch</td><td>L1<br>L2</td><td> L 3 </td></tr></table>"""
    assert _cells(page) == (("Hall", "Bays", "Bays"), ("Hall", "East", "West"), ("Larch", "L1 L2", "L 3"))


@pytest.mark.parametrize("span", ["0", "-2", "two", "", "1.5"])
def test_a_span_that_is_no_count_is_one(span: str) -> None:
    page = (
        f'<table><tr><th colspan="{span}" rowspan="{span}">a</th><th>b</th></tr><tr><td>c</td></tr></table>'
    )
    assert _cells(page) == (("a", "b"), ("c", ""))


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=5))
def test_every_table_becomes_rectangular_and_keeps_every_cell(rows) -> None:
    def cell(y: int, x: int, down: int, across: int) -> str:
        return f"<th rowspan={down} colspan={across}>{y}.{x}</th>"

    made = ["".join(cell(y, x, *spans) for x, spans in enumerate(row)) for y, row in enumerate(rows)]
    page = "<table><tr><th>head</th></tr>" + "".join(f"<tr>{row}</tr>" for row in made) + "</table>"
    cells = _cells(page)
    assert len(cells) == len(rows) + 1
    assert len({len(row) for row in cells}) == 1
    for y, row in enumerate(rows):
        assert {f"{y}.{x}" for x in range(len(row))} <= set(cells[y + 1])


def test_the_cells_of_all_spans_together_have_a_limit_and_rows_that_are_not_there_count_not(
    monkeypatch,
) -> None:
    monkeypatch.setattr(grid, "MAX_GRID_CELLS", 5)
    page = "<table><tr><th colspan=9>a</th></tr><tr><td>b</td></tr></table>"
    assert _cells(page) == (("a",) * 5, ("",) * 5)
    assert _cells("<table><tr><th rowspan=99>a</th><th>b</th></tr></table>") == (("a", "b"),)


@pytest.mark.parametrize(
    ("page", "unfolded"),
    [
        ("<table><tr><td>one</td></tr><tr><td>column</td></tr></table>", True),
        ("<table><tr><th>one</th></tr><tr><td>column</td></tr></table>", False),
        ("<table><tr><td>a</td><td>b</td></tr></table>", False),
        ("<table><tr><td>a</td><td><ul><li>b</li></ul></td></tr></table>", True),
        ("<table><tr><th>a</th><td><ul><li>b</li></ul></td></tr></table>", False),
    ],
)
def test_a_table_of_one_column_or_with_blocks_in_its_cells_lays_out_a_page(page: str, unfolded: bool) -> None:
    tags = {node.tag for node in _square(page).iter()} - {"ul", "li"}
    assert (tags == {"div"}) is unfolded
    assert ("table" in tags) is not unfolded


def test_the_caption_stands_apart_from_the_cells() -> None:
    page = "<table><caption> Prices </caption><tr><th>Part</th><td>£9</td></tr></table>"
    assert grid.read_cells(page) == ("Prices", (("Part", "£9"),))
    assert grid.read_cells("") == ("", ())
