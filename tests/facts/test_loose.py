"""Loose questions: some words of a statement in any order, never its answer, the same in every run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.facts import extract
from factory.facts.loose import LINKS, LooseAsker, says_something
from factory.rows import Fact
from factory.text import normalize
from tests.made import make_chunks, make_fact

TEXT = "New starters earn 25 days of leave each year. The tower at Marrick Quay is 19 metres tall."


def _facts(*contents: object) -> list[Fact]:
    return [draft.fact for chunk in make_chunks(*contents) for draft in extract.drafts(chunk)]


def _questions(fact: Fact, count: int = 12, among: list[Fact] | None = None) -> list[str]:
    return [ask.question for ask in LooseAsker(among or [fact]).ask(fact, count)]


def test_questions_hold_words_of_the_statement_and_the_question_words_but_not_the_answer() -> None:
    facts = _facts(TEXT)
    leave = next(fact for fact in facts if fact.answer == "25 days")
    known = set(normalize.tokens(f"how many days {leave.evidence.text} {leave.topic} {' '.join(LINKS)}"))
    questions = _questions(leave, among=facts)
    assert len(questions) > 8
    for question in questions:
        assert question.lower().count("how many days") == 1
        assert question.endswith("?")
        assert set(normalize.tokens(question)) <= known
        assert not normalize.contains(question, "25 days")


def test_two_of_the_rarest_words_are_always_there() -> None:
    facts = _facts(TEXT, "The tower of leave at the quay earns each year what starters earn in 3 days.")
    tall = next(fact for fact in facts if fact.answer == "19 metres")
    rare = {"marrick", "tall"}  # the other words stand in more statements
    assert all(rare & set(normalize.tokens(question)) for question in _questions(tall, among=facts))


def test_wordings_differ_and_are_the_same_in_every_run() -> None:
    (fact, *_) = _facts(TEXT)
    once, again = _questions(fact, 30), _questions(fact, 30)
    assert once == again
    assert len({normalize.normalize(question) for question in once}) == len(once) > 20


def test_a_cell_is_asked_for_by_row_and_column() -> None:
    questions = _questions(make_fact(40))
    assert questions
    assert all("td" in normalize.tokens(question) for question in questions)


def test_words_with_two_answers_are_not_asked_for() -> None:
    facts = _facts("# Old", "The fee for a lost key is £25.", "# New", "The fee for a lost key is £31.", TEXT)
    asked = {fact.answer for fact in facts if _questions(fact, among=facts)}
    assert "25 days" in asked
    assert asked.isdisjoint({"£25", "£31"})


@pytest.mark.parametrize(("word", "says"), [("the", False), ("Which", False), ("leave", True), ("six", True)])
def test_words_of_every_text_say_nothing_and_numbers_do(word: str, says: bool) -> None:
    assert says_something(word) is says


@given(st.text(max_size=80), st.text(max_size=30), st.sampled_from(["sentence", "table", "field", "faq"]))
def test_any_fact_can_be_asked_for(text: str, subject: str, kind: str) -> None:
    fact = make_fact(40).model_copy(update={"kind": kind, "subject": subject, "relation": f"{text}___"})
    for question in _questions(fact, 5):
        assert question.endswith("?")
        assert "  " not in question
