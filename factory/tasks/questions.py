"""Question files: the user's own and the small general set that shows what training made the model forget."""

import importlib.resources
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from factory import store
from factory.errors import EvaluateError
from factory.rows import Question, read_given


def _not_blank(answer: str) -> str:
    if not answer.strip():
        raise ValueError("an answer is blank; leave it out, or write [] where none exists")
    return answer


Answer = Annotated[str, AfterValidator(_not_blank)]


class UserQuestion(BaseModel):
    """One line of a question file; other keys are allowed and ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    question: str = Field(min_length=1)
    answers: tuple[Answer, ...]
    source: str | None = None


def read_user_questions(path: Path, question_set: str = "user") -> list[Question]:
    """Return the questions of a JSON Lines file; a line with no answers must be met with an abstention.

    Raises:
        EvaluateError: the file cannot be read, or a line is not a question.
    """
    rows = read_given(path, UserQuestion, '{"question": …, "answers": […]}', EvaluateError)
    found = [_question(row, question_set) for row in rows]
    if not found:
        raise EvaluateError(f"{path.name} holds no questions: write one JSON object a line")
    return found


def general_questions() -> list[Question]:
    """Return the bundled general questions, which no company's documents are needed for."""
    text = (importlib.resources.files("factory.tasks") / "general.jsonl").read_text(encoding="utf-8")
    return [_question(UserQuestion.model_validate_json(line), "general") for line in text.splitlines()]


def _question(row: UserQuestion, question_set: str) -> Question:
    return Question(
        id=store.hash_json([question_set, row.question])[:16],
        question=row.question,
        answers=row.answers,
        question_set=question_set,
        form=question_set,
        source=row.source,
    )
