"""Rows: JSON Lines out and in, all or nothing, every fault with its line."""

import inspect

import pytest
from pydantic import ValidationError

from factory import rows
from factory.errors import ArtifactError
from factory.rows import Example, Message, Quarantined, Question, Row, read_rows, write_rows

MESSAGES = [
    Message(role="user", content="Wie heißt der Turm?"),
    Message(role="assistant", content="line\nbreak \u2028 \u0085 \r end \x00"),
]


def test_rows_come_back_equal_whatever_their_text(tmp_path):
    assert write_rows(tmp_path / "rows.jsonl", MESSAGES) == 2
    assert list(read_rows(tmp_path / "rows.jsonl", Message)) == MESSAGES


def test_wordings_of_a_fact_take_turns_with_one_another_and_those_below_passages_apart():
    row = Example(id="r", form="tell", messages=tuple(MESSAGES), facts=("a", "b"))
    assert row.group == "a+b"
    assert row.model_copy(update={"facts": ()}).group == "r"
    assert row.model_copy(update={"form": rows.OPEN_BOOK}).group == "a+b/open_book/0"


def test_a_file_is_utf8_with_one_sorted_object_a_line(tmp_path):
    write_rows(tmp_path / "rows.jsonl", MESSAGES[:1])
    expected = '{"content": "Wie heißt der Turm?", "role": "user"}\n'
    assert (tmp_path / "rows.jsonl").read_bytes() == expected.encode()


def test_no_rows_are_an_empty_file(tmp_path):
    assert write_rows(tmp_path / "rows.jsonl", []) == 0
    assert list(read_rows(tmp_path / "rows.jsonl", Message)) == []


def test_a_writer_that_fails_leaves_the_rows_of_before(tmp_path):
    write_rows(tmp_path / "rows.jsonl", MESSAGES)

    def broken():
        yield MESSAGES[0]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_rows(tmp_path / "rows.jsonl", broken())
    assert len(list(read_rows(tmp_path / "rows.jsonl", Message))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "line", [b"{", b"", b"[]", b'{"role": "user"}', b'{"role": "boss", "content": ""}', b'"\xff"', b"null"]
)
def test_a_bad_line_is_named_by_number_and_type(tmp_path, line):
    write_rows(tmp_path / "rows.jsonl", MESSAGES)
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(line + b"\n")
    reader = read_rows(tmp_path / "rows.jsonl", Message)
    assert [next(reader), next(reader)] == MESSAGES
    with pytest.raises(ArtifactError, match=r"rows\.jsonl line 3 is not a Message: .*run the stage again"):
        next(reader)


def test_a_missing_file_is_an_artefact_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"rows\.jsonl' is missing"):
        next(read_rows(tmp_path / "rows.jsonl", Message))


def test_rows_are_frozen_and_refuse_unknown_keys():
    question = Question(id="1", question="Who?", answers=(), question_set="user", form="user")
    with pytest.raises(ValidationError, match="frozen"):
        question.question = "What?"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Quarantined(path="a", reason="empty", detail="", size=1)


def test_every_row_type_is_documented():
    kinds = [
        kind
        for kind in vars(rows).values()
        if inspect.isclass(kind) and issubclass(kind, Row) and kind is not Row
    ]
    assert Example in kinds
    assert len(kinds) >= 8
    assert all(kind.__doc__ and kind.__doc__ != Row.__doc__ for kind in kinds)
