"""Numbers, amounts and dates are one token each, equal for what says the same and for nothing else."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text import normalize
from factory.text.normalize import NUMBER_WORDS, tokens
from factory.text.numerals import SCALES
from factory.text.quantities import AFTER, MONTHS, Word, find, items, stance, words

SMALL = sorted(
    (word for word, digits in NUMBER_WORDS.items() if int(digits) < 20), key=lambda w: int(NUMBER_WORDS[w])
)
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
FEW = settings(max_examples=100, deadline=None)


def spell(number: int) -> str:
    """Return a number below 10**9 in English words."""
    for scale, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= scale:
            rest = number % scale
            return f"{spell(number // scale)} {name}" + (
                f"{' and' if rest < 100 else ''} {spell(rest)}" if rest else ""
            )
    if number < 20:
        return SMALL[number]
    return TENS[number // 10] + (f"-{SMALL[number % 10]}" if number % 10 else "")


def texts(text: str) -> list[str]:
    return [word.text for word in words(text)]


@FEW
@given(st.integers(0, 10**9 - 1))
def test_a_number_is_the_same_in_digits_with_separators_and_in_words(number: int) -> None:
    for written in (str(number), f"{number:,}", f"{number}.0", spell(number), spell(number).title()):
        assert texts(f"about {written} of them") == ["about", str(number), "of", "them"]


@FEW
@given(st.decimals(min_value=Decimal("0.001"), max_value=10**6, places=3))
def test_zeros_at_the_end_of_a_decimal_say_nothing(number: Decimal) -> None:
    shortest = f"{number:f}".rstrip("0").rstrip(".")
    assert texts(f"{number:f}") == texts(f"{number:f}0") == texts(f"{number:,f}") == [shortest]


@FEW
@given(st.lists(st.integers(0, 9999), min_size=1, max_size=8))
def test_a_list_of_numbers_stays_a_list(numbers: list[int]) -> None:
    assert texts(", ".join(map(str, numbers))) == [str(number) for number in numbers]
    assert texts("; ".join(map(spell, numbers)).replace(";", " or")) == " or ".join(map(str, numbers)).split()


OTHER = st.text(st.characters(exclude_categories=("Nd", "Nl", "No", "Sc")), max_size=30).filter(
    lambda text: (
        not {*tokens(text), *text.split()} & {*NUMBER_WORDS, *NUMBER_WORDS.values(), *SCALES, "minus"}
        and "a" not in normalize.TOKEN.findall(normalize.plain(text))
    )
)


@FEW
@given(OTHER)
def test_a_text_without_numbers_is_compared_as_everywhere_else(text: str) -> None:
    assert texts(text) == tokens(text)


ODD = [
    *AFTER,
    *SCALES,
    *SMALL,
    *MONTHS[:3],
    "-",
    "1",
    "2.5",
    "1.2.3",
    "09:30",
    "and",
    "per",
    "cent",
    "0",
    ":",
    " ",
]


@FEW
@given(st.text(max_size=40) | st.lists(st.sampled_from(ODD), max_size=12).map(" ".join))
def test_no_text_is_too_odd(text: str) -> None:
    for word in words(text):
        assert word.text
        assert word.is_number or not word.unit or word.text == "1"


@pytest.mark.parametrize(
    ("same", "unit"),
    [
        (("5 %", "5%", "five percent", "5 per cent", "5.0 pct"), "percent"),
        (("£15,000", "GBP 15000", "15000 pounds", "fifteen thousand pounds", "£15k", "15,000.00 £"), "gbp"),
        (("$1.2 million", "1200000 dollars", "USD 1.2m", "$ 1,200,000"), "usd"),
        (("-18", "\u221218", "minus 18", "minus eighteen"), ""),
        (("09:30", "9:30"), "time"),
        ((".5", "0.5", "0.50"), ""),
    ],
)
def test_one_amount_has_one_spelling(same: tuple[str, ...], unit: str) -> None:
    found = {words(text)[0] for text in same}
    assert len(found) == 1
    assert all(len(words(text)) == 1 for text in same)
    assert found.pop().unit == unit


@pytest.mark.parametrize(
    "text",
    [
        "21 April 2024",
        "21st of April 2024",
        "April 21, 2024",
        "Apr. 21st, 2024",
        "2024-04-21",
        "21 apr 2024",
    ],
)
def test_one_date_has_one_spelling(text: str) -> None:
    assert words(text) == [Word("21", True, "date"), Word("april"), Word("2024", True, "date")]
    assert any(find(words("21 April"), words(text)))
    assert any(find(words("April 2024"), words(text)))
    assert not any(find(words("12 April"), words(text)))


@pytest.mark.parametrize(
    "text",
    [
        "0042",
        "1.2.3",
        "10:30:15",
        "10 minus 4",
        "one hundred and two hundred",
        "nineteen eighty",
        "A-5",
        "2 £3",
    ],
)
def test_what_is_no_single_number_is_left_apart(text: str) -> None:
    assert texts(text) == {
        "10 minus 4": ["10", "minus", "4"],
        "one hundred and two hundred": ["100", "and", "200"],
        "nineteen eighty": ["19", "80"],
        "A-5": ["5"],
        "2 £3": ["2", "3"],
    }.get(text, [text])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5%-10%", [("5", "percent"), ("10", "percent")]),
        ("5€-10 €", [("5", "eur"), ("10", "eur")]),
        ("-5 %", [("-5", "percent")]),
        ("5, 10 or 20 %", [("5", "percent"), ("10", "percent"), ("20", "percent")]),
        ("£10, 20 and 30", [("10", "gbp"), ("20", "gbp"), ("30", "gbp")]),
        ("10 to 12 days", [("10", "days"), ("12", "days")]),
        ("£10 and 20 employees", [("10", "gbp"), ("20", "employees")]),
        ("5 in all. 20 %", [("5", "in"), ("20", "percent")]),
        ("in 4. 20 %", [("4", ""), ("20", "percent")]),
        ("In March 12 people", [("12", "people")]),
        ("no one, but one of 3", [("3", "")]),
        ("version 3.10 of 3.10", [("3.10", "of"), ("3.1", "")]),
    ],
)
def test_a_number_has_its_own_unit_or_that_of_its_list(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(word.text, word.unit) for word in words(text) if word.is_number] == expected


def test_the_numbers_of_a_text_are_items_and_a_date_is_one() -> None:
    found = items(words("From 1 May 2024 to 3 May, for 12 days; in June 2025 it ends"))
    assert [[word.text for word in item] for item in found] == [
        ["1", "may", "2024"], ["3", "may"], ["12"], ["june", "2025"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"), [("Plan A", True), ("plan a.", True), ("Plan A costs", True), ("A plan", False),
                       ("THIS IS A PLAN", False), ("Once Upon A Time", False), ("take a plan", False)],
)  # fmt: skip
def test_an_a_that_is_a_name_is_kept(text: str, kept: bool) -> None:
    assert ("a" in texts(text)) is kept


@FEW
@given(st.text(max_size=40))
def test_nothing_but_a_yes_or_no_is_a_stance(text: str) -> None:
    assert stance(text) in {"", *(token for token in tokens(text) if token in {"yes", "no"})}


def test_a_lone_one_is_no_number_but_still_matches_its_digit() -> None:
    (one,) = words("one")
    assert not one.is_number
    assert one.matches(words("1")[0])
    assert words("one percent")[0] == Word("1", True, "percent")


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [("5 %", "5", True), ("5", "5 %", True), ("5 %", "£5", False), ("£5", "$5", False), ("-5", "5", False),
     ("5 %", "6 %", False), ("12:30", "12", False)],
)  # fmt: skip
def test_a_unit_may_be_missing_but_not_another(one: str, other: str, match: bool) -> None:
    assert any(find(words(one), words(f"it is {other} today"))) is match
