"""Rows of the history: which answer of a pane is its last, what is unknown, and that none changes."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.history.rows import Answer, Turn


def turn_of(*panes):
    answers = tuple(Answer(f"id{at}", pane, "m", f"text {at}", {}) for at, pane in enumerate(panes))
    return Turn("t", 1, "Who?", "", {}, 0.0, answers)


def test_a_turn_nobody_answered_has_no_last_answers():
    assert turn_of().last_answers() == {}


def test_of_a_pane_that_was_asked_again_the_later_answer_counts():
    last = turn_of(0, 1, 0, 3, 0).last_answers()
    assert {pane: answer.text for pane, answer in last.items()} == {0: "text 4", 1: "text 1", 3: "text 3"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12))
def test_no_pane_is_lost_and_nothing_comes_after_a_last_answer(panes):
    turn = turn_of(*panes)
    last = turn.last_answers()
    assert set(last) == set(panes)
    for pane, answer in last.items():
        later = turn.answers[int(answer.response_id.removeprefix("id")) + 1 :]
        assert answer.pane == pane
        assert pane not in {other.pane for other in later}


def test_every_number_of_an_answer_is_unknown_until_it_is_measured():
    answer = Answer("id", 0, "m", "", {})
    numbers = ("ttft_s", "tokens_per_s", "prompt_tokens", "completion_tokens", "cost")
    assert [getattr(answer, name) for name in numbers] == [None] * 5


def test_rows_cannot_be_changed():
    turn = turn_of(0)
    with pytest.raises(FrozenInstanceError):
        turn.prompt = "Whom?"
    with pytest.raises(FrozenInstanceError):
        turn.answers[0].text = "other"
