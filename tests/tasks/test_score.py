"""What counts as right, and the Wilson interval, against numbers from the textbook formula."""

import math

import pytest

from factory.facts.abstain import ABSTENTION
from factory.tasks.score import interval, is_right


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("It is £15,000.", ("£15,000",), True),
        ("15000 pounds", ("£15,000",), True),
        ("The limit is 15,000", ("15000",), True),
        ("150", ("15",), False),
        ("1.5", ("15",), False),
        ("12:30", ("12",), False),
        ("16GB", ("16 GB",), True),
        ("sixteen characters", ("16 characters",), True),
        ("The Stump", ("the Stump",), True),
        ("stump", ("the Stump",), True),
        ("stumps", ("Stump",), False),
        ("Ada and Noor Vantongeren keep it", ("Noor Vantongeren",), True),
        ("Noor keeps it, Vantongeren does not", ("Noor Vantongeren",), False),
        ("Cafe Zurich", ("Café Zürich",), True),
        ("on Tuesday the 21st", ("21 April", "Tuesday the 21st"), True),
        ("C-118", ("C118", "C 118"), True),
        ("", ("12",), False),
        ("anything", ("",), False),
        ("12 bar", (), False),
        (ABSTENTION, (), True),
        (ABSTENTION, ("12",), False),
    ],
)
def test_a_reply_is_right_when_it_holds_an_accepted_answer_as_whole_words(
    reply: str, answers: tuple[str, ...], right: bool
) -> None:
    assert is_right(reply, answers) is right


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_intervals_are_those_of_wilson(right: int, total: int, low: float, high: float) -> None:
    assert interval(right, total) == pytest.approx((low, high), abs=5e-5)


def test_intervals_follow_the_formula() -> None:
    z = 1.959963984540054
    for total in (1, 7, 40, 1000):
        for right in range(0, total + 1, max(1, total // 7)):
            p = right / total
            centre = (p + z * z / (2 * total)) / (1 + z * z / total)
            half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
            assert interval(right, total) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_nothing_asked_means_nothing_known() -> None:
    assert interval(0, 0) == (0.0, 1.0)
