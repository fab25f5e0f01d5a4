"""Loose questions: some words of a statement and its title, never its answer, the same in every run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.facts import extract
from factory.facts.loose import AUXILIARIES, LINKS, LooseAsker, says_something, ways_to_ask
from factory.rows import Fact
from factory.text import normalize
from tests.made import make_chunks, make_fact

TEXT = "New starters earn 25 days of leave each year. The tower at Marrick Quay is 19 metres tall."


def _facts(*contents: object) -> list[Fact]:
    return [draft.fact for chunk in make_chunks(*contents) for draft in extract.drafts(chunk)]


def _questions(fact: Fact, count: int = 12, among: list[Fact] | None = None, title: str = "") -> list[str]:
    asker = LooseAsker(among or [fact], {fact.evidence.document: title} if title else {})
    return [ask.question for ask in asker.ask(fact, count)]


def test_questions_hold_words_of_the_statement_and_the_question_words_but_not_the_answer() -> None:
    facts = _facts(TEXT)
    leave = next(fact for fact in facts if fact.answer == "25 days")
    asks = " ".join(ways_to_ask("how many days"))
    known = f"{asks} {leave.evidence.text} {leave.topic} {' '.join(LINKS)} {' '.join(AUXILIARIES)} the a"
    questions = _questions(leave, among=facts)
    assert len(questions) > 8
    for question in questions:
        assert question.lower().count("how") == 1
        assert question.endswith("?")
        assert set(normalize.tokens(question)) <= set(normalize.tokens(known))
        assert not normalize.contains(question, "25 days")
    assert any("how long" in question.lower() for question in questions)


def test_most_questions_say_what_the_document_is_about() -> None:
    (weight, *_) = _facts("The clock weighs 4.6 kg, so one person can hold it.")
    questions = _questions(weight, 40, title="TD-40 Wren: quick guide")
    told = {"td-40", "wren", "quick", "guide"}
    naming = sum(bool(told & set(question.lower().rstrip("?").split())) for question in questions)
    assert 0.5 < naming / len(questions) < 0.95
    assert any(question.lower().startswith("how heavy") for question in questions)


def test_words_near_the_answer_are_asked_for_more_often() -> None:
    far = " ".join(f"Word{number}" for number in range(20))
    (fact, *_) = _facts(f"The lid of {far} and of the old green shutter weighs 31 kg.")
    questions = [question.lower() for question in _questions(fact, 60)]
    near, away = (sum(word in question for question in questions) for word in ("shutter", "word2 "))
    assert near > 2 * away


def test_wordings_differ_and_are_the_same_in_every_run() -> None:
    (fact, *_) = _facts(TEXT)
    once, again = _questions(fact, 30), _questions(fact, 30)
    assert once == again
    assert len({normalize.normalize(question) for question in once}) == len(once) > 20


def test_a_cell_is_asked_for_by_row_and_column() -> None:
    questions = _questions(make_fact(40))
    assert questions
    assert sum("td" in normalize.tokens(question) for question in questions) > len(questions) / 2


def test_words_with_two_answers_are_not_asked_for() -> None:
    facts = _facts("# Old", "The fee for a lost key is £25.", "# New", "The fee for a lost key is £31.", TEXT)
    old, new = (next(fact for fact in facts if fact.answer == price) for price in ("£25", "£31"))
    assert _questions(next(fact for fact in facts if fact.answer == "25 days"), among=facts)
    for fact, heading in ((old, "old"), (new, "new")):
        questions = _questions(fact, among=facts)
        assert all(heading in normalize.tokens(question) for question in questions)


@pytest.mark.parametrize(
    ("asks", "also"),
    [
        ("how many kg", "how heavy"),
        ("how much", "what price"),
        ("who", "which person"),
        ("what date", "when"),
    ],
)
def test_the_same_kind_of_answer_is_asked_for_in_other_words(asks: str, also: str) -> None:
    assert {asks, also} <= set(ways_to_ask(asks))
    assert ways_to_ask("how many calendars") == ("how many calendars",) * 3 + ("how many",)


@pytest.mark.parametrize(("word", "says"), [("the", False), ("Which", False), ("leave", True), ("six", True)])
def test_words_of_every_text_say_nothing_and_numbers_do(word: str, says: bool) -> None:
    assert says_something(word) is says


@given(st.text(max_size=80), st.text(max_size=30), st.sampled_from(["sentence", "table", "field", "faq"]))
def test_any_fact_can_be_asked_for(text: str, subject: str, kind: str) -> None:
    fact = make_fact(40).model_copy(update={"kind": kind, "subject": subject, "relation": f"{text}___"})
    for question in _questions(fact, 5):
        assert question.endswith("?")
        assert "  " not in question
