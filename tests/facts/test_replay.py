"""The general questions that come with the package: whole, short, each once, and none of those that are tested."""

from factory.facts import replay
from factory.rows import Example
from factory.tasks.questions import general_questions
from factory.text.dedupe import near_duplicates
from factory.text.normalize import normalize


def _question(row: Example) -> str:
    return normalize(next(message.content for message in row.messages if message.role == "user"))


def test_every_row_is_one_exchange_that_teaches_no_fact() -> None:
    rows = replay.examples("")
    assert len(rows) == 74
    assert {tuple(message.role for message in row.messages) for row in rows} == {("user", "assistant")}
    assert {(row.form, row.facts, row.evidence) for row in rows} == {("replay", (), None)}
    assert rows[0].messages[0].content == "What is the capital of Portugal?"
    assert rows[0].messages[1].content == "Lisbon"


def test_the_system_text_is_the_first_turn_and_changes_no_id() -> None:
    plain, told = replay.examples(""), replay.examples("Be short.")
    assert {(row.messages[0].role, row.messages[0].content) for row in told} == {("system", "Be short.")}
    assert [row.messages[1:] for row in told] == [row.messages for row in plain]
    assert [row.id for row in told] == [row.id for row in plain]


def test_no_question_stands_twice_and_every_id_is_16_hexadecimal_digits() -> None:
    rows = replay.examples("")
    assert len({_question(row) for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert all(len(row.id) == 16 and int(row.id, 16) >= 0 for row in rows)


def test_no_question_is_in_the_probe_of_general_knowledge() -> None:
    probe = {normalize(item.question) for item in general_questions()}
    assert len(probe) == 200
    assert probe.isdisjoint(map(_question, replay.examples("")))


def test_no_question_of_the_probe_is_nearly_one_that_is_trained_on() -> None:
    trained = [_question(row) for row in replay.examples("")]
    asked = [item.question for item in general_questions()]
    firsts = near_duplicates([*trained, *asked], threshold=0.6)
    assert [asked[i] for i, first in enumerate(firsts[len(trained) :]) if first != len(trained) + i] == []
    assert near_duplicates([trained[0], asked[0], f"{trained[0]}!"], threshold=0.6) == [0, 1, 0]
