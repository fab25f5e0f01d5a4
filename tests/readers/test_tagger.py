"""The tagger that stands in for a downloaded model, asked through unstructured's own functions."""

from typing import Any

import pytest


@pytest.fixture
def tokenize() -> Any:
    """Return unstructured's own module, imported once it has been told to stay offline."""
    from unstructured.nlp import tokenize

    return tokenize


@pytest.mark.parametrize(
    ("sentence", "verbs"),
    [
        ("The pump is drained monthly", ["is", "drained"]),
        ("Staff SHOULD organise meetings", ["SHOULD", "organise"]),
        ("We verify and authorize payments", ["verify", "authorize"]),
        ("Price list of pumps", []),
    ],
)
def test_verbs_are_known_by_their_ending_or_by_name_in_any_case(
    tokenize, sentence: str, verbs: list[str]
) -> None:
    tagged = tokenize.pos_tag(sentence)
    assert [word for word, _ in tagged] == sentence.split()
    assert [word for word, tag in tagged if tag == "VB"] == verbs
    assert {tag for _, tag in tagged} <= {"VB", "NN"}


def test_sentences_end_at_their_marks(tokenize) -> None:
    text = "Open the tap. Is it dry? Close it."
    assert [str(sentence).strip() for sentence in tokenize.sent_tokenize(text)] == [
        "Open the tap.",
        "Is it dry?",
        "Close it.",
    ]


def test_prose_is_told_from_a_label() -> None:
    from unstructured.partition.text_type import contains_verb, is_possible_narrative_text

    assert contains_verb("The engineer on duty opened the valve")
    assert not contains_verb("Engineer on duty")
    assert is_possible_narrative_text("The engineer on duty opened the valve before the morning shift.")
    assert not is_possible_narrative_text("Price list of pumps and valves for the northern works.")
