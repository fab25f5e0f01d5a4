"""What `report.json` holds, version 1, as pydantic models; `docs/report.schema.json` is made from them."""

import json
from typing import Any, Literal

from factory.bundle.manifest import BaseIdentity, BundleFile, Frozen, Gate
from factory.scores import Comparison, DocumentScore, Score


class StageTime(Frozen):
    """What one stage took and how it ended."""

    name: str
    status: str
    seconds: float | None
    peak_memory_bytes: int | None


class QuarantinedFile(Frozen):
    """A source file that was not read, and why."""

    path: str
    reason: str
    detail: str


class Claim(Frozen):
    """What one document answers, masked as the dataset is, and the day that it states; empty if none."""

    document: str
    answer: str
    date: str


class Conflict(Frozen):
    """A question that documents answer differently; `believed` is the answer that is taught, None if none is."""

    question: str
    claims: tuple[Claim, ...]
    believed: str | None


class DocumentLoss(Frozen):
    """The trained model's mean loss, in nats a token, on some training rows of one document."""

    document: str
    rows: int
    loss: float


class LossPoint(Frozen):
    """The training loss at one optimizer step: in nats a token of rows, and afterwards in nats a pair of answers."""

    step: int
    loss: float
    stage: Literal["rows", "preferences"] = "rows"


class RecallPoint(Frozen):
    """The share of validation questions answered at one optimizer step."""

    step: int
    recall: float


class FileSize(Frozen):
    """One GGUF file: what it really holds, and how well it answers the questions that decide."""

    file: str
    bytes: int
    bits_per_weight: float
    types: dict[str, int]
    num_fallbacks: int
    passed: bool | None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None


class Sample(Frozen):
    """One question with its accepted answers and what a model replied."""

    question: str
    answers: tuple[str, ...]
    reply: str
    correct: bool
    question_set: str
    model: str
    source: str | None


class Report(Frozen):
    """Everything a run says about itself; parts whose stage has not run are empty.

    `loss` is thinned to at most 500 points a stage; `least_learned` are the ten documents whose training rows have the
    highest loss. `counts` and `settings` are keyed by artefact, as in the records.
    `problems` lists what could not be read while the report was written.
    """

    schema_version: Literal[1] = 1
    recipe: str
    verdict: str
    failure: str | None
    machine: str
    base: BaseIdentity | None
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...]
    gates: tuple[Gate, ...]
    stages: tuple[StageTime, ...]
    quarantined: tuple[QuarantinedFile, ...]
    conflicts: tuple[Conflict, ...]
    files: tuple[BundleFile, ...]
    left_out: tuple[str, ...]
    sizes: tuple[FileSize, ...]
    documents: tuple[DocumentScore, ...]
    loss: tuple[LossPoint, ...]
    recall: tuple[RecallPoint, ...]
    least_learned: tuple[DocumentLoss, ...]
    samples: tuple[Sample, ...]
    counts: dict[str, dict[str, Any]]
    settings: dict[str, dict[str, Any]]
    packages: dict[str, str]
    problems: tuple[str, ...]


def report_schema() -> str:
    """Return the JSON schema of `report.json`, indented."""
    return json.dumps(Report.model_json_schema(mode="serialization"), indent=2, sort_keys=True) + "\n"
