"""Question files: read whole, faults named by line; the general set is sound."""

import json
from collections import Counter
from pathlib import Path

import pytest

from factory.errors import EvaluateError
from factory.tasks.questions import general_questions, read_user_questions
from factory.tasks.score import grade
from factory.text import normalize


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_lines_become_questions_with_or_without_answers(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "q.jsonl",
        '{"question": "Who keeps the key?", "answers": ["Ada", "Ada L."], "source": "keys.md", "evidence": "x"}',
        "",
        '{"question": "Who keeps the moon?", "answers": []}',
    )
    first, second = read_user_questions(path)
    assert (first.question, first.answers, first.question_set, first.source) == (
        "Who keeps the key?", ("Ada", "Ada L."), "user", "keys.md")  # fmt: skip
    assert (second.answers, second.question_set) == ((), "user")
    assert first.id != second.id
    assert read_user_questions(path, "site")[0].question_set == "site"


def test_line_separators_inside_a_question_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    line = json.dumps({"question": "One\u2028line?", "answers": ["yes"]}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    assert [row.question for row in read_user_questions(path)] == ["One\u2028line?"]


@pytest.mark.parametrize(
    "line",
    ["not json", '{"question": "Q?"}', '{"question": "", "answers": []}', '{"question": "Q?", "answers": "A"}',
     '{"question": 1, "answers": []}', "[]", "null"],
)  # fmt: skip
def test_a_fault_is_named_by_file_and_line(line: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", '{"question": "Q?", "answers": []}', line)
    with pytest.raises(EvaluateError, match=r"mine\.jsonl line 2"):
        read_user_questions(path)


@pytest.mark.parametrize("answer", ["", " \t"])
def test_a_blank_answer_is_refused_in_one_clear_line(answer: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "mine.jsonl", json.dumps({"question": "Q?", "answers": ["A", answer]}))
    with pytest.raises(
        EvaluateError, match=r"^mine\.jsonl line 1 is not .*answers\.1: .*an answer is blank"
    ) as caught:
        read_user_questions(path)
    assert "\n" not in str(caught.value)


def test_a_missing_an_empty_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluateError, match="cannot be read"):
        read_user_questions(tmp_path / "no.jsonl")
    with pytest.raises(EvaluateError, match="holds no questions"):
        read_user_questions(_write(tmp_path / "empty.jsonl", "", " "))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluateError, match="cannot be read"):
        read_user_questions(tmp_path / "binary.jsonl")


def test_general_questions_are_many_different_and_do_not_hold_their_answers() -> None:
    asked = general_questions()
    assert len(asked) == 200
    assert (
        len({normalize.normalize(row.question) for row in asked})
        == len({row.id for row in asked})
        == len(asked)
    )
    for row in asked:
        assert row.question_set == "general"
        assert row.answers
        assert not any(normalize.contains(row.question, answer) for answer in row.answers), row.question


def test_general_answers_are_short_and_each_is_right_by_itself() -> None:
    for row in general_questions():
        for answer in row.answers:
            assert len(answer.split()) <= 3, answer
            assert grade(answer, row.answers, row.question).exact, answer
            assert grade(f"The answer is {answer}.", row.answers, row.question).correct, answer


def test_general_questions_begin_in_many_ways() -> None:
    openings = Counter(" ".join(row.question.split()[:3]) for row in general_questions())
    assert len(openings) >= 80
