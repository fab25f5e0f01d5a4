"""Bundled reading practice: its answers stand in its passages, and its rows share these."""

import json
from collections import Counter
from pathlib import Path

import pytest

from factory.chat.context import split_turn
from factory.facts import practice
from factory.text import normalize

QUESTIONS = Path(__file__).parents[2] / "data" / "questions"


def words(text: str) -> int:
    return len(text.split())


def test_every_answer_stands_in_its_passage_and_in_no_question() -> None:
    found = practice.passages()
    assert len(found) == 620
    for passage in found:
        assert 2 <= len(passage.asked) <= 5, passage.title
        for asked in passage.asked:
            assert asked.answer in passage.text
            assert 2 <= len(asked.questions) <= 4
            for question in asked.questions:
                assert not normalize.contains(question, asked.answer), question


def test_short_and_long_passages_come_in_turn() -> None:
    lengths = [words(passage.text) for passage in practice.passages()]
    long = sum(length >= 70 for length in lengths)
    assert long / len(lengths) == pytest.approx(0.5, abs=0.05)
    assert sum(length >= 70 for length in lengths[:100]) == pytest.approx(50, abs=5)


def test_a_question_is_asked_of_one_passage_and_has_one_answer() -> None:
    asked = Counter(
        (passage.title, normalize.normalize(question))
        for passage in practice.passages()
        for one in passage.asked
        for question in one.questions
    )
    assert [key for key, times in asked.items() if times > 1] == []


def test_no_bundled_test_question_is_practised() -> None:
    practised = {
        normalize.normalize(question)
        for passage in practice.passages()
        for asked in passage.asked
        for question in asked.questions
    }
    lines = [line for path in QUESTIONS.glob("*.jsonl") for line in path.read_text("utf-8").splitlines()]
    assert len(lines) > 200
    assert not practised & {normalize.normalize(json.loads(line)["question"]) for line in lines}


def test_an_epoch_takes_some_passages_with_all_that_is_asked_about_them() -> None:
    shown = practice.passages()[:10]
    rows = list(practice.examples(shown, 7, 10_000, words, "Be brief."))
    assert len(rows) == sum(len(asked.questions) for passage in shown for asked in passage.asked)
    assert len({row.id for row in rows}) == len(rows)
    assert {row.every for row in rows} == {round(len(rows) / 7)}
    assert len({split_turn(row.messages[-2].content)[0] for row in rows}) == 10
    first = rows[0]
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert first.messages[-2].content.startswith(f"{shown[0].title}\n{shown[0].text}\n\nQuestion: ")
    assert first.messages[-1].content == shown[0].asked[0].answer
    assert first.facts == ()
    assert first.evidence is None


@pytest.mark.parametrize("room", [0, 45])
def test_passages_that_a_row_has_no_room_for_are_left_out(room: int) -> None:
    shown = practice.passages()
    rows = list(practice.examples(shown, 9999, room, words, ""))
    above = {split_turn(row.messages[-2].content)[0] for row in rows}
    assert len(above) == sum(words(f"{passage.title} {passage.text}") <= room for passage in shown)
    assert all(words(text) <= room for text in above)
    assert {row.every for row in rows} <= {1}
