import pytest


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found_and_values_stay_as_written(read_one, delimiter):
    rows = [["part", "bay", "price"], ["007", "", "1.50"], ["x y", "L-02", "nan"]]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    assert read_one("a.csv", text).elements[0].cells == tuple(map(tuple, rows))


def test_quoted_cells_may_hold_line_ends_and_commas(read_one):
    (table,) = read_one("a.csv", 'a,b\n"one, two\nthree","say ""hi"""\n').elements
    assert table.cells == (("a", "b"), ("one, two three", 'say "hi"'))


def test_tabs_only_split_tsv(read_one):
    assert read_one("a.tsv", "a\tb\n1,2\t3\n").elements[0].cells == (("a", "b"), ("1,2", "3"))


def test_rows_are_made_equally_long_and_a_byte_order_mark_goes(read_one):
    data = "\ufeffa;b\n1;2;3\n".encode("utf-16")
    assert read_one("a.csv", data).elements[0].cells == (("a", "b", ""), ("1", "2", "3"))
