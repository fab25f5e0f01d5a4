"""An answer with passages: they stand in the prompt, are cited with their place, and the one that holds it is named."""

import pytest

from factory.chat.backend import Answer
from factory.facts.abstain import ABSTENTION
from factory.tasks.answering import Answered, Citation, answer, from_memory, holds
from factory.tasks.retrieval import Retriever
from tests.made import make_chunks

PUMP = make_chunks("# Pressure", "The pump runs at 12 bar.", "It has a lamp.", title="Pump manual")
PAGED = [
    chunk.model_copy(
        update={
            "elements": tuple(
                element.model_copy(update={"page": 3 + place}) for place, element in enumerate(chunk.elements)
            )
        }
    )
    for chunk in PUMP
]
RETRIEVER = Retriever(
    [*make_chunks("The north gate has a pump, too.", path="gates.md", title="Gates"), *PAGED]
)
QUESTION = "At how many bar does the pump run?"


class Model:
    """Replies the same to everything and keeps what it was asked."""

    def __init__(self, reply: str) -> None:
        self.reply, self.asked = reply, []

    def __call__(self, turn: str) -> Answer:
        self.asked.append(turn)
        return Answer(self.reply, -0.5)


def test_the_best_passages_are_in_the_prompt_and_cited_in_their_order() -> None:
    model = Model("12 bar")
    found = answer(model, RETRIEVER, QUESTION, 2, -0.1)
    (asked,) = model.asked
    assert asked == RETRIEVER.prompt(QUESTION, 2)
    assert asked.index("12 bar") < asked.index("north gate") < asked.index(QUESTION)
    first, second = found.passages
    assert found.answer == "12 bar"
    assert first == Citation("manuals/pump.md", "Pump manual > Pressure", 3, first.score, True)
    assert (second.document, second.page, second.holds_answer) == ("gates.md", None, False)
    assert first.score > second.score > 0
    assert len(answer(model, RETRIEVER, QUESTION, 1, None).passages) == 1


def test_the_page_is_that_of_the_answers_words_else_the_passages_first() -> None:
    pages = {
        reply: answer(Model(reply), RETRIEVER, QUESTION, 1, None).passages[0].page
        for reply in ("12 bar", "a lamp", "gas")
    }
    assert pages == {"12 bar": 3, "a lamp": 4, "gas": 3}


def test_where_no_passage_shares_a_word_the_question_is_asked_as_it_is() -> None:
    model = Model("12 bar")
    found = answer(model, RETRIEVER, "Who was Caesar?", 2, None)
    assert model.asked == ["Who was Caesar?"]
    assert (found.answer, found.passages) == ("12 bar", ())


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("12 bar", True),
        ("It runs at 12 bar.", True),
        ("Twelve bar", True),
        ("14 bar", False),
        ("the pump of the gate", False),
        ("It is", False),
        ("", False),
        (ABSTENTION, False),
    ],
)
def test_a_passage_holds_an_answer_whose_words_all_stand_in_it(reply: str, expected: bool) -> None:
    assert holds("Pump manual\nThe pump runs at 12 bar.", reply) is expected


def test_an_abstention_rests_on_no_passage_even_if_its_words_stand_there() -> None:
    assert not holds(f"Write: {ABSTENTION}", ABSTENTION)


def test_what_is_not_sure_enough_is_declined_and_kept_as_a_guess() -> None:
    assert from_memory(Answer("12 bar", -0.5), None) == Answered("12 bar", -0.5)
    assert from_memory(Answer("12 bar", -0.5), -0.5) == Answered("12 bar", -0.5)
    assert from_memory(Answer("12 bar", -0.5), -0.4) == Answered(ABSTENTION, -0.5, "12 bar")
    assert from_memory(Answer(ABSTENTION, -0.5), -0.4) == Answered(ABSTENTION, -0.5)
    found = answer(Model("a general"), RETRIEVER, "Who was Caesar?", 2, -0.4)
    assert (found.answer, found.guess, found.passages) == (ABSTENTION, "a general", ())
