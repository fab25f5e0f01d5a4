"""A feedback file gives rows that point at themselves, or the line that is wrong."""

import pytest

from factory.errors import SynthesizeError
from factory.facts.feedback import examples, read_feedback, tells
from tests.made import make_fact


def test_a_row_is_its_own_evidence(tmp_path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(
        '\ufeff{"question": "Who?", "answer": "Ada\u2028T", "source": "a.md", "response_id": "r1"}\n\n'
        '{"question": "When?", "answer": "at 10", "response_id": "r2"}\n{"question": "Where?", "answer": "here"}',
        encoding="utf-8",
    )
    first, second, third = examples(path, "Be short.")
    assert first.evidence.document == "feedback:a.md"
    assert second.evidence.document == "feedback:r2"
    assert third.evidence.document == f"feedback:{third.id}"
    assert first.evidence.text[first.evidence.start : first.evidence.end] == "Ada\u2028T"
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert examples(path, "Be short.")[0] == first


@pytest.mark.parametrize("name", ["gone.jsonl", "latin.jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\xff")
    with pytest.raises(SynthesizeError, match=f"{name}.* cannot be read"):
        read_feedback(tmp_path / name)


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("How heavy is TD-40?", "It weighs 40 kg.", True),
        ("What weighs 40 kg?", "the TD-40", True),
        ("How heavy is TD-40?", "41 kg", False),
        ("How heavy is TD-41?", "40 kg", False),
        ("Who sells TD-40 at 40 kg?", "Ada", False),
    ],
)
def test_a_row_tells_a_fact_when_it_names_subject_and_answer(question, answer, told) -> None:
    assert tells(question, answer, make_fact(40)) == told
