"""Corrected answers as training rows: what people wrote instead of what a model said, its own evidence."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from factory import store
from factory.chat.template import conversation
from factory.errors import SynthesizeError
from factory.rows import Evidence, Example, Fact, read_given
from factory.text import normalize

FORM = "feedback"


class CorrectedAnswer(BaseModel):
    """One line of a feedback file; other keys are allowed and ignored.

    `source` names what the answer rests on, `response_id` the answer that was corrected.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    source: str | None = None
    response_id: str | None = None


def read_feedback(path: Path) -> list[CorrectedAnswer]:
    """Return the rows of a JSON Lines file.

    Raises:
        SynthesizeError: the file cannot be read, or a line is not a question with its answer.
    """
    return read_given(path, CorrectedAnswer, '{"question": …, "answer": …}', SynthesizeError)


def examples(path: Path, system: str) -> list[Example]:
    """Return one training row for each question of a feedback file; of two answers to one, the later.

    Raises:
        SynthesizeError: the file is not one of corrected answers.
    """
    rows = {normalize.normalize(row.question): row for row in read_feedback(path)}
    return [_example(row, system) for row in rows.values()]


def _example(row: CorrectedAnswer, system: str) -> Example:
    """Return a row whose evidence is the answer itself, as a document of its own."""
    identity = store.hash_json([FORM, row.question, row.answer])[:16]
    evidence = Evidence(
        document=f"{FORM}:{row.source or row.response_id or identity}",
        start=0,
        end=len(row.answer),
        text=row.answer,
    )
    messages = conversation(row.question, row.answer, system)
    return Example(id=identity, form=FORM, messages=messages, facts=(), evidence=evidence)


def tells(question: str, answer: str, fact: Fact) -> bool:
    """Tell whether a question names a fact's subject and its answer the fact's, or the other way round."""
    pairs = ((fact.subject, fact.answer), (fact.answer, fact.subject))
    return any(
        normalize.contains(question, asked) and normalize.contains(answer, said) for asked, said in pairs
    )
