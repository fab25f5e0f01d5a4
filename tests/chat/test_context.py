"""A chunk in a prompt stands under its title and headings, and the question comes last."""

import pytest

from factory.chat.context import chunk_heading, chunk_text, split_turn, with_context
from tests.made import make_chunks

(CHUNK,) = make_chunks("# Pressure", "The pump runs at 12 bar.", title="Pump manual")


def test_a_chunk_is_shown_under_its_title_and_headings() -> None:
    assert chunk_heading(CHUNK) == "Pump manual > Pressure"
    assert chunk_text(CHUNK) == "Pump manual > Pressure\nThe pump runs at 12 bar."


def test_passages_stand_above_the_question_and_braces_mean_nothing() -> None:
    assert with_context(["A {question}", "B"], "Who {is} it?") == (
        "A {question}\n\nB\n\nQuestion: Who {is} it?\nAnswer:"
    )


def test_without_passages_the_question_stays_as_it_is() -> None:
    assert with_context([], "Who?") == "Who?"


@pytest.mark.parametrize("question", ["Who?", "Who said 'Question: what?\nAnswer:'?", "A\n\nB?"])
@pytest.mark.parametrize("passages", [["A"], ["A\n\nQuestion: old?\nAnswer: no", "B"]])
def test_the_question_is_found_again_below_its_passages(passages: list[str], question: str) -> None:
    assert split_turn(with_context(passages, question)) == ("\n\n".join(passages), question)


@pytest.mark.parametrize("turn", ["Who?", "Question: who?\nAnswer:", "A\n\nQuestion: who?", ""])
def test_a_turn_without_passages_is_its_own_question(turn: str) -> None:
    assert split_turn(turn) == ("", turn)
