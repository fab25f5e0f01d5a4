"""What asks for which kind of answer, and which of two answers in one place is taken."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.facts.spans import answers, question_words

FRAGMENTS = (
    "The pump", " runs at 12 bar", " on 3 May 2024", ", for £1,290", " 09:00-17:30", " Petra Lindqvarn",
    " in Skelbeck", ' "Never stop"', " S-1150-A", " 5 %", " two days", ".", ":", " ", "1", "-", "'s", "a@b.example",
)  # fmt: skip


def _found(sentence: str) -> list[tuple[str, str]]:
    return [(answer.text, answer.kind) for answer in answers(sentence)]


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("quantity", "12 bar", "how many bar"),
        ("quantity", "3-5 working days", "how many working days"),
        ("quantity", "two to four weeks", "how many weeks"),
        ("quantity", "half a day", "how many days"),
        ("quantity", "1,200", "how many"),
        ("number", "999", "how many"),
        ("number", "4711", "which number"),
        ("money", "£5", "how much"),
        ("name", "Ada", "who"),
        ("code", "MC-7", "which code"),
        ("of no known kind", "x", "what"),
    ],
)
def test_an_answer_is_asked_for_by_its_kind(kind: str, text: str, words: str) -> None:
    assert question_words(kind, text) == words


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("Sold on 14 November 2025.", [("14 November 2025", "date")]),  # not the year, nor 14 of something
        ('Ask for the "early bird at 07:30" today.', [("07:30", "time")]),
        ("It costs £12 million, or 15 percent.", [("£12 million", "money"), ("15 percent", "percent")]),
        ("The van holds 12 kg.", [("12 kg", "quantity")]),
        ("The van holds 12 of them.", [("12", "number")]),
    ],
)
def test_the_surest_kind_takes_the_place(sentence: str, found: list[tuple[str, str]]) -> None:
    assert _found(sentence) == found


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("We drove to Skelbeck.", [("Skelbeck", "place")]),
        ("We wrote to Petra Lindqvarn.", [("Petra Lindqvarn", "name")]),
        ("We work near Tarrow Bridge.", [("Tarrow Bridge", "place")]),
        ("We call it the Old Bell.", [("Old Bell", "phrase")]),
        ("Petra leads.", []),  # the capital of a sentence says nothing
    ],
)
def test_the_word_before_a_name_says_whether_it_is_a_place(sentence: str, found: list) -> None:
    assert _found(sentence) == found


def test_marks_behind_an_answer_are_no_part_of_it() -> None:
    (money,) = answers("They paid £1,290, in cash.")
    assert (money.text, money.start, money.end, money.asks) == ("£1,290", 10, 16, "how much")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
def test_answers_are_in_order_apart_and_stand_in_the_sentence(sentence: str) -> None:
    found = answers(sentence)
    assert all(sentence[answer.start : answer.end] == answer.text for answer in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert all(answer.text.strip(" ") == answer.text and answer.text[-1] not in ",.;:" for answer in found)
