"""The forms a fact is asked in: families that stay apart, and reverse questions answered the other way round."""

import pytest

from factory.facts import grammar, phrasing, spans
from factory.facts.phrasing import Ask, answer_of, ask_cell, ask_heading, ask_reverse, ask_sentence, spellings
from factory.text import normalize
from tests.made import make_fact


def _ask(sentence: str, topic: str = "Hours", title: str = "Handbook") -> dict[str, str]:
    (answer,) = spans.answers(sentence)[:1]
    return {ask.form: ask.question for ask in ask_sentence(sentence, answer, topic, title)}


def test_a_reverse_question_is_answered_by_the_subject_and_all_others_by_the_answer() -> None:
    fact = make_fact(40)
    for ask in ask_cell(fact, "Model", "Price list", unique=True):
        assert answer_of(ask, fact) == ("TD-40" if ask.form == "reverse" else "40 kg")


def test_the_reverse_question_is_asked_only_of_a_value_that_stands_once() -> None:
    fact = make_fact(40)
    forms = [{ask.form for ask in ask_cell(fact, key, "Price list", unique=unique)} for key, unique in
             (("Model", True), ("Model", False), ("", True))]  # fmt: skip
    assert ["reverse" in found for found in forms] == [True, False, False]


def test_the_forms_for_tests_share_no_wording_with_those_for_training() -> None:
    asks = [
        *ask_cell(make_fact(40), "Model", "Price list", unique=True),
        *ask_heading("May we paint the hands?", "FAQ"),
        *ask_sentence(
            "The pump runs at 12 bar.", spans.answers("The pump runs at 12 bar.")[0], "Pump", "Manual"
        ),
    ]
    tested = {normalize.normalize(ask.question) for ask in asks if ask.form in phrasing.TEST_FORMS}
    trained = {normalize.normalize(ask.question) for ask in asks if ask.form not in phrasing.TEST_FORMS}
    assert len(tested) == 3
    assert tested.isdisjoint(trained)


@pytest.mark.parametrize(
    ("relation", "natural", "indirect"),
    [
        ("Price", "How much does TD-40 cost?", "Do you know how much TD-40 costs?"),
        (
            "Warranty",
            "How long is the warranty of TD-40?",
            "Do you know how long the warranty of TD-40 lasts?",
        ),
        ("Weight", "How much does TD-40 weigh?", "Do you know how much TD-40 weighs?"),
        (
            "Lead time",
            "How long does TD-40 take to deliver?",
            "Do you know how long delivery of TD-40 takes?",
        ),
        ("Contact", "Who is the contact for TD-40?", "Do you know who the contact for TD-40 is?"),
        ("Bay", "Where is TD-40?", "Do you know where TD-40 is?"),
        ("Size", None, "Do you know what the size of TD-40 is?"),
        ("By", None, "Do you know what the entry 'By' of TD-40 is?"),
        ("Used for", None, "Do you know what the entry 'Used for' of TD-40 is?"),
    ],
)
def test_a_column_is_asked_for_in_plain_words(relation: str, natural: str | None, indirect: str) -> None:
    fact = make_fact(40).model_copy(update={"relation": relation})
    asks = {ask.form: ask.question for ask in ask_cell(fact, "", "Price list", unique=False)}
    assert asks.get("natural") == natural
    assert asks["indirect"] == indirect


def test_a_sentence_that_leans_on_another_is_asked_with_its_topic_only() -> None:
    asks = _ask("It weighs 40 kg in its crate.")
    assert set(asks) == {"topic_in_place", "lead_in", "title_gap", "indirect"}
    assert all("Hours" in question or "Handbook" in question for question in asks.values())
    assert asks["topic_in_place"] == "Handbook, Hours: it weighs how many kg in its crate?"


def test_a_plain_sentence_is_asked_in_every_form() -> None:
    asks = _ask("The pump runs at 12 bar.")
    assert asks == {
        "front": "At how many bar does the pump run?",
        "lead_in": "I forgot: at how many bar does the pump run?",
        "topic_in_place": "Hours: the pump runs at how many bar?",
        "strand": "How many bar does the pump run at?",
        "topic_front": "Hours: at how many bar does the pump run?",
        "title_gap": "Handbook. The pump runs at ___. What is missing?",
        "in_place": "The pump runs at how many bar?",
        "gap": "Fill in the blank: The pump runs at ___.",
        "indirect": "Do you know at how many bar the pump runs?",
    }


def test_the_subject_is_asked_for_in_all_its_forms() -> None:
    clause = grammar.parse("Petra Lindqvarn approves all purchases.")
    assert clause is not None
    assert ask_reverse(clause, "Money", "Handbook") == (
        Ask("subject", "Who approves all purchases?"),
        Ask("lead_in", "Hello! Who approves all purchases?"),
        Ask("topic_subject", "Money: who approves all purchases?"),
        Ask("title_subject", "In Handbook, who approves all purchases?"),
        Ask("indirect", "Do you know who approves all purchases?"),
    )


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [("the Stump", ("the Stump",)), ("Noor Vantongeren (IT)", ("Noor Vantongeren (IT)", "Noor Vantongeren")),
     (" 12 bar ", ("12 bar",)), ("(none)", ("(none)",))],
)  # fmt: skip
def test_an_answer_is_accepted_with_and_without_its_brackets(answer: str, accepted: tuple[str, ...]) -> None:
    assert spellings(answer) == accepted
