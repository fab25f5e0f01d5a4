"""The general questions that come with the package: whole, short, each once, and none of those that are tested."""

import Stemmer

from factory.facts import replay
from factory.facts.loose import says_something
from factory.tasks.questions import general_questions
from factory.text.dedupe import near_duplicates
from factory.text.normalize import normalize

PAIRS = [(f"What is {number}?", f"A number, {number}.") for number in range(30)]


def test_every_row_is_one_exchange_that_teaches_no_fact() -> None:
    rows = replay.examples(PAIRS, 10, "")
    assert [tuple(message.content for message in row.messages) for row in rows] == PAIRS
    assert {(row.form, row.facts, row.evidence) for row in rows} == {("replay", (), None)}
    assert len({row.id for row in rows}) == len({row.group for row in rows}) == 30


def test_rows_take_turns_so_that_an_epoch_has_about_as_many_as_asked_for() -> None:
    assert {row.every for row in replay.examples(PAIRS, 10, "")} == {3}
    assert {row.every for row in replay.examples(PAIRS, 29, "")} == {1}
    assert {row.every for row in replay.examples(PAIRS, 500, "")} == {1}


def test_the_system_text_is_the_first_turn_and_changes_no_id() -> None:
    plain, told = replay.examples(PAIRS, 10, ""), replay.examples(PAIRS, 10, "Be short.")
    assert {(row.messages[0].role, row.messages[0].content) for row in told} == {("system", "Be short.")}
    assert [row.messages[1:] for row in told] == [row.messages for row in plain]
    assert [row.id for row in told] == [row.id for row in plain]


def test_no_bundled_question_stands_twice_or_is_nearly_one_of_the_probe() -> None:
    bundled = replay.questions()
    assert len({normalize(question) for question in bundled}) == len(bundled) == 310
    assert all(3 <= len(question.split()) <= 14 for question in bundled)
    probe = [item.question for item in general_questions()]
    assert len(probe) == 200
    firsts = near_duplicates([*bundled, *probe], threshold=0.6)
    assert [probe[i] for i, first in enumerate(firsts[310:]) if first != 310 + i] == []
    assert near_duplicates([bundled[0], probe[0], f"{bundled[0]}!"], threshold=0.6) == [0, 1, 0]


def test_no_bundled_question_asks_in_other_words_what_the_probe_asks() -> None:
    stem = Stemmer.Stemmer("english").stemWord

    def telling(question: str) -> frozenset[str]:
        return frozenset(stem(word) for word in normalize(question).split() if says_something(word))

    def is_like(one: frozenset[str], other: frozenset[str]) -> bool:
        return bool(one and other) and len(one & other) > 0.6 * len(one | other)

    probe = [telling(item.question) for item in general_questions()]
    assert is_like(telling("How many days are in April?"), telling("How many days does April have?"))
    assert [q for q in replay.questions() if any(is_like(telling(q), other) for other in probe)] == []
