"""What counts as right, and the Wilson interval, against numbers from the textbook formula."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.facts.abstain import ABSTENTION
from factory.tasks.score import Grade, grade, interval
from factory.text.normalize import NUMBER_WORDS

FEW = settings(max_examples=100, deadline=None)
NUMBERS = st.integers(2, 10**6)
WORDS = ("red", "blue", "pump", "gate", "north", "runs", "holds", "of", "never", "at")
SENTENCE = st.lists(st.sampled_from(WORDS), max_size=8)


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("It is £15,000.", ("£15,000",), True),
        ("15000 pounds", ("£15,000",), True),
        ("The limit is 15,000", ("15000",), True),
        ("15,000 dollars", ("£15,000",), False),
        ("150", ("15",), False),
        ("1.5", ("15",), False),
        ("1.50", ("1.5",), True),
        ("-18 degrees", ("18",), False),
        ("12:30", ("12",), False),
        ("16GB", ("16 GB",), True),
        ("sixteen characters", ("16 characters",), True),
        ("Sixty-six of them", ("66",), True),
        ("Sixty-six of them", ("60",), False),
        ("five percent", ("5 %",), True),
        ("5 days", ("5 %",), False),
        ("5", ("5 %",), True),
        ("15,000 employees", ("£15,000",), False),
        ("The limit of 15,000 applies", ("£15,000",), True),
        ("10 kg", ("10 pounds",), False),
        ("no one may", ("1",), False),
        ("Plan B", ("Plan A",), False),
        ("It is plan a.", ("Plan A",), True),
        ("Plan A costs £3", ("Plan A",), True),
        ("A pump", ("pump",), True),
        ("10 to 12 days", ("10-12 days",), True),
        ("10-12 days", ("10 to 12 days",), True),
        ("In March 12 people joined", ("12 people",), True),
        ("version 3.10", ("version 3.1",), False),
        ("5 %", ("five per cent of staff", "5 percent"), True),
        ("The Stump", ("the Stump",), True),
        ("stump", ("the Stump",), True),
        ("stumps", ("Stump",), False),
        ("Ada and Noor Vantongeren keep it", ("Noor Vantongeren",), True),
        ("Noor keeps it, Vantongeren does not", ("Noor Vantongeren",), False),
        ("Cafe Zurich", ("Café Zürich",), True),
        ("on Tuesday the 21st", ("21 April", "Tuesday the 21st"), True),
        ("on April 21st, 2024", ("21 April",), True),
        ("2024-04-21", ("April 21, 2024",), True),
        ("2024-04-12", ("April 21, 2024",), False),
        ("C-118", ("C118", "C 118"), True),
        ("", ("12",), False),
        ("anything", ("",), False),
        ("12 bar", (), False),
        (ABSTENTION, (), True),
        (ABSTENTION, ("12",), False),
    ],
)
def test_a_reply_is_right_when_it_holds_an_accepted_answer_as_whole_words_and_numbers(
    reply: str, answers: tuple[str, ...], right: bool
) -> None:
    assert grade(reply, answers).correct is right


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("10, 11 or 12", "12", False),
        ("1 2 3 4 5 6 7 8 9 10 11 12", "12", False),
        ("12 bar; 10 in winter", "12", True),
        ("between 10 and 12 bar", "12 bar", True),
        ("5 %, 10 % or 15 %", "10 %", False),
        ("On 21 April 2024 at 10:30 it costs £7 in room 12", "12", True),
        ("It costs £12 for 3 people and 2 dogs", "£12", True),
        ("1 May, 2 May or 3 May", "3 May", False),
        ("from 1 September 2024 to 31 August 2027", "31 August 2027", True),
        ("30 days after 12 months (section 4.2), once 6 weeks are over", "30 days", True),
        ("10, 20 or 30 days", "30 days", False),
        ("5, 10, 15 or 20 %", "20 %", False),
        ("£10, 20, 30 or 40 are allowed", "£10", False),
        ("5%-10%", "10%", True),
        ("Form 12, 13 or 14", "Form 12", True),
        ("no one but the 12", "12", True),
    ],
)
def test_a_list_of_numbers_is_no_answer_and_other_kinds_do_not_count(
    reply: str, answer: str, right: bool
) -> None:
    assert grade(reply, (answer,)).correct is right
    assert grade(reply, (answer,)).contains


@pytest.mark.parametrize(
    ("reply", "answer", "right"),
    [
        ("There is no limit, so yes", "No", False),
        ("There is no limit, so yes", "Yes", True),
        ("There is no limit", "No", True),
        ("No, although others say yes", "No", True),
        ("No, although others say yes", "Yes", False),
        ("The answer is no.", "No", True),
        ("maybe", "No", False),
    ],
)
def test_a_yes_or_no_is_the_first_that_the_reply_says(reply: str, answer: str, right: bool) -> None:
    assert grade(reply, (answer,)).correct is right


def test_numbers_of_the_question_do_not_make_a_list() -> None:
    reply = "10 plus 20 plus 30 equals 60"
    assert grade(reply, ("60",), "What is 10 plus 20 plus 30?").correct
    assert not grade(reply, ("60",)).correct


@FEW
@given(NUMBERS, NUMBERS)
def test_a_number_is_right_when_it_is_that_number_only(said: int, wanted: int) -> None:
    for spelled in (str(wanted), f"{wanted:,}", f"{wanted}.00"):
        assert grade(f"There are {said:,} gates.", (spelled,)).correct is (said == wanted)


@FEW
@given(st.sets(NUMBERS, min_size=3, max_size=9), st.sampled_from(["{}", "{} %", "£{}"]))
def test_naming_three_numbers_answers_nothing(numbers: set[int], shape: str) -> None:
    reply = " or ".join(shape.format(number) for number in numbers)
    assert not any(grade(reply, (shape.format(number),)).correct for number in numbers)
    two = sorted(numbers)[:2]
    reply = " or ".join(shape.format(number) for number in two)
    assert all(grade(reply, (shape.format(number),)).correct for number in two)


@FEW
@given(SENTENCE, SENTENCE, SENTENCE)
def test_the_measures_keep_their_order(before: list[str], answer: list[str], after: list[str]) -> None:
    found = grade(" ".join([*before, *answer, *after]), (" ".join(answer),))
    assert found.correct is found.contains is bool(answer)
    assert found.exact is (bool(answer) and not before and not after)
    assert (found.f1 == 1.0) is found.exact
    assert 0.0 <= found.f1 <= 1.0


@FEW
@given(st.text(max_size=40), st.lists(st.text(max_size=12), max_size=3))
def test_no_reply_is_too_odd_and_exact_means_right(reply: str, answers: list[str]) -> None:
    found = grade(reply, answers, reply)
    assert found.correct or not found.exact
    assert 0.0 <= found.f1 <= 1.0


def test_f1_is_the_share_of_common_words_with_the_best_answer() -> None:
    found = grade("the north gate code is 4711", ("code 4711", "4712"))
    assert found.f1 == pytest.approx(2 * 2 / (5 + 2))
    assert grade("forty two", ("42",)) == Grade(True, True, False, 1.0, False)


def test_where_no_answer_exists_only_declining_counts() -> None:
    assert grade(ABSTENTION, ()) == Grade(True, True, True, 1.0, True)
    assert grade("12 bar", ()) == Grade(False, False, False, 0.0, False)
    assert grade(ABSTENTION, ("12",)).refused


def test_the_number_words_are_known() -> None:
    assert all(grade(word, (digits,)).correct for word, digits in NUMBER_WORDS.items())


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
