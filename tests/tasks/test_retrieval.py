"""Retrieval finds the chunk that answers, by body, title or heading, and never breaks on a question."""

import pytest

from factory.tasks.retrieval import Retriever, chunk_text
from tests.made import make_chunks

CHUNKS = [
    *make_chunks(
        "# Pressure", "The pump runs at 12 bar.", "# Colour", "The lamp is green.", title="Pump manual"
    ),
    *make_chunks("# Gates", "The code of the north gate is 4711.", path="gates.md", title="Site book"),
    *make_chunks("# Holidays", "You have 27 days a year.", path="leave.md", title="Leave policy"),
]


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return Retriever(CHUNKS)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the code of the north gate?", "4711"),
        ("At how many bar does the pump run?", "12 bar"),
        ("Which lamp colour?", "green"),
        ("What does the leave policy give me?", "27 days"),
        ("holidays", "27 days"),
    ],
)
def test_the_best_chunk_comes_first(retriever: Retriever, question: str, expected: str) -> None:
    assert expected in retriever.search(question, 2)[0]


def test_as_many_as_asked_for_and_no_more_than_there_are(retriever: Retriever) -> None:
    assert len(retriever.search("pump gate lamp", 2)) == 2
    assert len(set(retriever.search("pump gate lamp", 50))) == len(CHUNKS)


@pytest.mark.parametrize("question", ["", "?", "the of and", "zzz qqq", "漢字", "x" * 50_000, "\x00"])
def test_a_question_without_known_words_still_gets_an_answer(retriever: Retriever, question: str) -> None:
    assert len(retriever.search(question, 2)) == 2


def test_a_prompt_holds_passages_above_the_question(retriever: Retriever) -> None:
    prompt = retriever.prompt("What is the code of the north gate?", 1)
    assert prompt.endswith("Question: What is the code of the north gate?\nAnswer:")
    assert prompt.index("4711") < prompt.index("Question:")
    assert "{" not in retriever.prompt("What is {passages}?", 1).replace("{passages}", "")


def test_a_chunk_is_shown_under_its_title_and_headings() -> None:
    assert chunk_text(CHUNKS[0]) == "Pump manual > Pressure\nThe pump runs at 12 bar."


def test_one_chunk_is_enough() -> None:
    assert Retriever(CHUNKS[:1]).search("pump", 5) == [chunk_text(CHUNKS[0])]
