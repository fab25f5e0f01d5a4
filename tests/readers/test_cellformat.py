"""Numbers as their format shows them: exact to the last place, signs once, and unknown formats left plain."""

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.readers.cellformat import format_value


@settings(max_examples=50)
@given(st.integers(-(10**12), 10**12))
def test_separators_stand_every_three_digits_and_lose_nothing(value: int) -> None:
    shown = format_value(value, "#,##0")
    assert int(shown.replace(",", "")) == value
    groups = shown.lstrip("-").split(",")
    assert 1 <= len(groups[0]) <= 3
    assert all(len(group) == 3 for group in groups[1:])


@settings(max_examples=50)
@given(st.integers(0, 10**9))
def test_cents_are_two_digits_and_shares_are_a_hundred_times_the_value(cents: int) -> None:
    whole, rest = divmod(cents, 100)
    assert format_value(cents / 100, "0.00") == f"{whole}.{rest:02}"
    assert format_value(cents / 100, "0%") == f"{cents}%"


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (-1234.5, "_($* #,##0.00_)", "-$1,234.50"),
        (-0.155, "0.0%", "-15.5%"),
        (-0.004, "0.00", "0.00"),  # nothing is left to be negative
        (0, "General", "0"),
        (False, "0", "FALSE"),
        (1234.5, "#,##0.00 [$kr-41D]", "1,234.50 kr"),
        (12, "0 \\m", "12 m"),
        (5, "00000", "00005"),
        (5, "(0)", "(5)"),
    ],
)
def test_signs_units_and_zeros_stand_as_in_a_sheet(value, number_format, shown) -> None:
    assert format_value(value, number_format) == shown


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (12345.678, "0.00E+00", "12345.678"),
        (0.5, "# ?/?", "0.5"),
        (0.25, "[h]:mm", "0.25"),
        (1e14, "", "100000000000000"),
        (1234567.891, "General", "1234567.891"),
        (2e-7, "General", "2e-07"),
    ],
)
def test_a_format_of_another_kind_leaves_the_number_plain(value, number_format, shown) -> None:
    assert format_value(value, number_format) == shown


@pytest.mark.parametrize("error", ["#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NULL!", "#NUM!"])
def test_errors_are_nothing_and_words_that_look_like_them_are_words(error: str) -> None:
    assert format_value(error, "0.00") == ""
    assert format_value(f"{error} fixed", "0.00") == f"{error} fixed"


def test_dates_are_iso_dates_and_midnight_is_none_of_the_clock() -> None:
    assert format_value(dt.date(2026, 2, 1), "dd/mm/yy") == "2026-02-01"
    assert format_value(dt.datetime(2026, 2, 1, 0, 0, 59), "dd/mm/yy") == "2026-02-01 00:00"
    assert format_value(dt.time(0, 0), "hh:mm") == "00:00"


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (1234567, '#,##0,"k"', "1,235k"),
        (1234567, '0.0,,"m"', "1.2m"),
        (2.5, "0", "3"),
        (0.125, "0.00", "0.13"),
        (1.005, "0.00", "1.01"),
        (2.0, "0.0#", "2.0"),
        (2.25, "0.0#", "2.25"),
        (2.0, "0.##", "2"),
        (1e300, "0", "1" + "0" * 300),
    ],
)
def test_numbers_are_scaled_and_rounded_as_a_sheet_does(value, number_format, shown) -> None:
    assert format_value(value, number_format) == shown
