"""The rows of the playground's history, frozen; where they are kept stands elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Winner = Literal["a", "b", "tie", "both_bad"]
Thumb = Literal["up", "down"]
Tag = Literal["wrong_fact", "hallucinated", "style", "refused"]


@dataclass(frozen=True)
class Answer:
    """What one pane replied.

    `response_id` is a UUID in hex. `identity` says which bytes answered: sha256 of file and adapter, quantization,
    endpoint. `instead_of` is the model that was asked where another stood in for it. `settings` are those that this
    answer was drawn with and `sent` the messages that the model got, the system text first if there was one; both are
    empty where they are not known. `cost` is in dollars. None means unknown, for every number.
    """

    response_id: str
    pane: int
    model: str
    text: str
    identity: Mapping[str, Any]
    finish_reason: str | None = None
    ttft_s: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    error: str | None = None
    instead_of: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    sent: tuple[Mapping[str, Any], ...] = ()

    @property
    def system(self) -> str:
        """The system text that the model got."""
        first = self.sent[0] if self.sent else {}
        return str(first.get("content", "")) if first.get("role") == "system" else ""


@dataclass(frozen=True)
class Turn:
    """One question, `number` from 1, and its answers in the order they came.

    `system` and `settings` are those of the page when it was asked; each answer says what it was drawn with.
    """

    id: str
    number: int
    prompt: str
    system: str
    settings: Mapping[str, Any]
    created: float
    answers: tuple[Answer, ...]

    def last_answers(self) -> dict[int, Answer]:
        """Return each pane's last answer: one that was asked again has several."""
        return {answer.pane: answer for answer in self.answers}


@dataclass(frozen=True)
class Exchange:
    """One response with the question it answers."""

    question: str
    answer: Answer


@dataclass(frozen=True)
class Summary:
    """A line of the list of conversations; `created` is in seconds since 1970, as all times here."""

    id: str
    title: str
    created: float
    num_turns: int
    parent: str | None
    parent_turn: str | None


@dataclass(frozen=True)
class Conversation:
    """A conversation with all its turns; `parent` and `parent_turn` say what it branched from."""

    id: str
    created: float
    parent: str | None
    parent_turn: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Vote:
    """Which of two responses a person preferred without knowing their models, and the models."""

    a: str
    b: str
    model_a: str
    model_b: str
    winner: Winner
    created: float


@dataclass(frozen=True)
class VotedPair:
    """A question with the answer that won a blind vote and the one that lost it."""

    question: str
    chosen: str
    rejected: str
    created: float


@dataclass(frozen=True)
class Feedback:
    """What a person said of one response; `gold` is the answer as it should have been."""

    response_id: str
    thumb: Thumb | None
    tags: tuple[Tag, ...]
    gold: str | None
    created: float


@dataclass(frozen=True)
class Correction:
    """A question, what a model answered, and the answer a person wrote instead."""

    response_id: str
    question: str
    rejected: str
    gold: str
    model: str
    tags: tuple[Tag, ...]
    created: float
