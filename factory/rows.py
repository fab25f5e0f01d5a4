"""The rows that stages hand over as JSON Lines: frozen records and how to read and write them; no logic."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from factory import store
from factory.errors import ArtifactError, FactoryError

ElementKind = Literal["heading", "paragraph", "list_item", "table", "code", "field"]
Role = Literal["system", "user", "assistant"]
OPEN_BOOK = "open_book"  # the form of rows whose question stands below passages
ReasonCode = Literal[
    "empty",
    "no_text",
    "encrypted",
    "corrupt",
    "macros",
    "too_large",
    "zip_bomb",
    "path_traversal",
    "nested_too_deep",
    "unsupported",
    "executable",
    "secrets",
    "timeout",
    "out_of_memory",
    "crashed",
    "link",
    "unreadable",
    "instructions",
]


class Row(BaseModel):
    """A frozen record whose unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Row)
G = TypeVar("G", bound=BaseModel)


class Element(Row):
    """One block of a document. `document.text[start:end] == text` always holds (characters, not bytes).

    `heading_path` holds the headings above the element, outermost first, without the document's title.
    `cells` is set for tables only: rows of cell texts, the header row first.
    """

    kind: ElementKind
    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    page: int | None = None
    sheet: str | None = None
    cells: tuple[tuple[str, ...], ...] | None = None


class Document(Row):
    """The text of one source file, normalised, and the elements it is made of.

    `path` is relative to the source folder with forward slashes and is the document's id; members of
    containers read `policies.zip!/hr/leave.md`. `sha256` is that of the file's (or member's) bytes.
    """

    path: str
    sha256: str
    format: str
    title: str
    text: str
    elements: tuple[Element, ...]
    metadata: dict[str, str] = {}


class Quarantined(Row):
    """A file that was not read, and why."""

    path: str
    reason: ReasonCode
    detail: str


class Chunk(Row):
    """A run of elements of one document that fits a token budget.

    `text` is what a reader or a retriever sees; `elements` are the pieces it is made of, a table split over
    several chunks repeating its header row in `cells` (its `start`/`end` then cover the body rows only).
    """

    id: str
    document: str
    title: str
    heading_path: tuple[str, ...]
    text: str
    start: int
    end: int
    num_tokens: int
    elements: tuple[Element, ...]
    metadata: dict[str, str] = {}


class Evidence(Row):
    """Where a fact stands: `document.text[start:end] == text`.

    The corpus keeps the document's text and the SHA-256 of its file; it does not stand here, so that an edit which
    moves no text leaves every row as it was.
    """

    document: str
    start: int
    end: int
    text: str
    page: int | None = None
    sheet: str | None = None


class Fact(Row):
    """One thing a document states: the `relation` of `subject` is `answer`, which stands in the evidence.

    `answers` are accepted spellings, the canonical one (`answer`) first. `topic` is the document's title or
    the innermost heading that tells two like-named subjects apart.
    """

    id: str
    kind: str
    subject: str
    relation: str
    answer: str
    answers: tuple[str, ...]
    topic: str
    evidence: Evidence


class Claim(Row):
    """What a document states of something in question, and the day that it states; empty if none."""

    fact: Fact
    date: str


class Conflict(Row):
    """A question that documents answer differently; `believed` is the id of the fact that is taught, if one is."""

    question: str
    claims: tuple[Claim, ...]
    believed: str | None


class Message(Row):
    """One turn of a conversation, in the shape TRL and the OpenAI API use."""

    role: Role
    content: str


class Example(Row):
    """A training conversation: the loss is on assistant turns only.

    `form` names the way it asks (its phrasing family); `facts` are the ids of the facts it asks for, empty for
    abstention and general rows; `evidence` is where its answer stands, `beside` where all else stands that it says. It
    takes part in one of `every` epochs.
    `version` numbers what stands above its question: 0 is what the documents say, or nothing; others are altered, and
    so are their answers, which stand in no document.
    """

    id: str
    form: str
    messages: tuple[Message, ...]
    facts: tuple[str, ...]
    evidence: Evidence | None = None
    beside: tuple[Evidence, ...] = ()
    every: int = Field(default=1, ge=1)
    version: int = 0

    @property
    def group(self) -> str:
        """What takes turns: a fact's wordings, those below each version of passages apart; else the row itself."""
        names = "+".join(self.facts) or self.id
        return f"{names}/{OPEN_BOOK}/{self.version}" if self.form == OPEN_BOOK else names


class Preference(Row):
    """A prompt with the answer that people prefer and one they do not, as TRL writes it; other keys are ignored.

    `prompt` is a question, or the messages up to the answer.
    """

    model_config = ConfigDict(extra="ignore")

    prompt: str | tuple[Message, ...] = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "Preference":
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same")
        if self.messages[-1].role != "user":
            raise ValueError("prompt ends with no question of the user")
        return self

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages up to the answer."""
        return (Message(role="user", content=self.prompt),) if isinstance(self.prompt, str) else self.prompt


class Question(Row):
    """A test question. Empty `answers` means that the right reply is to abstain."""

    id: str
    question: str
    answers: tuple[str, ...]
    question_set: str
    form: str
    fact: str | None = None
    source: str | None = None


def read_rows(path: Path, row_type: type[R]) -> Iterator[R]:
    """Yield the rows of a JSON Lines file.

    Raises:
        ArtifactError: the file is missing, or a line is not a valid row of that type.
    """
    try:
        lines = path.open("rb")
    except FileNotFoundError as error:
        raise ArtifactError(f"{str(path)!r} is missing: delete its folder and run the stage again") from error
    with lines:
        for number, line in enumerate(lines, 1):
            try:
                yield row_type.model_validate_json(line)
            except ValidationError as error:
                raise ArtifactError(
                    f"{path.name} line {number} is not a {row_type.__name__}: {error.errors()[0]['msg']}; "
                    "delete the folder and run the stage again"
                ) from error


def read_given(path: Path, row_type: type[G], shape: str, kind: type[FactoryError]) -> list[G]:
    """Return the rows of a JSON Lines file that a user wrote; blank lines are skipped, a byte order mark is too.

    Args:
        path: the file.
        row_type: what each line must be.
        shape: how a line looks, for the error.
        kind: the error to raise when the file cannot be read or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f"{str(path)!r} cannot be read: {error}; name a .jsonl file") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(row_type.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise kind(f"{path.name} line {number} is not {shape}: {error}") from error
        except ValidationError as error:
            raise kind(f"{path.name} line {number} is not {shape}: {_first_fault(error)}") from error
    return found


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])


def write_rows(path: Path, rows: Iterable[Row]) -> int:
    """Replace a file with rows as JSON Lines, all or nothing, and return how many there were."""
    count = 0
    with store.open_replacing(path) as file:
        for row in rows:
            file.write(json.dumps(row.model_dump(mode="json"), ensure_ascii=False, sort_keys=True) + "\n")
            count += 1
    return count
