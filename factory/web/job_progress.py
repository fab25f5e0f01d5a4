"""How far a training run is, read from what it has written: folders, log and report. Starts and changes nothing.

A stage that works has a mark in `.partial/`, and stages run in order: what stands before the first mark is done.
"""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from factory import artifacts, store
from factory.bundle.manifest import MANIFEST
from factory.errors import ArtifactError, GateError
from factory.pipeline import STEPS
from factory.readers.journal import DOCUMENTS, PARTIAL, QUARANTINE
from factory.report.model import DocumentLoss, LossPoint, QuarantinedFile
from factory.web.job import CANCEL, LOG, Job
from factory.web.runner import ATTEMPT

MAX_LOG_BYTES = 1 << 20
LOG_LINES = 14
LEAST_LEARNED = 10  # documents
ERROR = "error: "
STEP_LINE = re.compile(r"^ *train: (\d+)/(\d+) loss (\d+\.\d+)")
UNPRINTED = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\t\x20-\U0010ffff]")


@dataclass(frozen=True)
class StageProgress:
    """One stage: `status` is done, working, failed, stopped or waiting; `seconds` what it took, once it is done."""

    stage: str
    status: str
    seconds: float | None = None


@dataclass(frozen=True)
class ReadFile:
    """A document that was read, and its length."""

    path: str
    characters: int


@dataclass(frozen=True)
class Progress:
    """A run at one moment.

    `current` is the stage that works or did when the run ended, None before the first and after the last.
    `loss` has a point a step as far as training has written its curve, else one for each line of the log, which come
    twice a minute. `num_steps` is known once training has said it. `least_learned` are the documents with the highest
    loss when recall was last measured, or after training. `bundle` is set when there is one to use.
    `cancelling` says that the run was asked to end and has not yet.
    """

    job: Job
    stages: tuple[StageProgress, ...]
    current: str | None
    loss: tuple[LossPoint, ...]
    num_steps: int | None
    log: tuple[str, ...]
    read: tuple[ReadFile, ...]
    quarantined: tuple[QuarantinedFile, ...]
    verdict: str
    command: str
    bundle: Path | None
    cancelling: bool = False
    least_learned: tuple[DocumentLoss, ...] = ()


def read_progress(job: Job, out: Path, command: str) -> Progress:
    """Return how far the run in an output folder is; what cannot be read counts as not there yet."""
    lines = _log_lines(out)
    stages = _stages(job, out)
    current = next((row.stage for row in stages if row.status in {"working", "failed", "stopped"}), None)
    loss, num_steps = _loss(out, lines)
    read, quarantined = _corpus(out)
    return Progress(
        job=job,
        stages=stages,
        current=current,
        loss=loss,
        num_steps=num_steps,
        log=tuple(lines[-LOG_LINES:]),
        read=read,
        quarantined=quarantined,
        verdict=_verdict(out) if has_finished(job, out) else "",
        command=command,
        bundle=find_bundle(job, out),
        cancelling=job.state == "running" and (out / CANCEL).exists(),
        least_learned=_least_learned(out),
    )


def has_finished(job: Job, out: Path) -> bool:
    """Tell whether a job's run went through all stages, also when a file then failed a quality gate."""
    return job.state == "done" or missed_gate(job, out)


def missed_gate(job: Job, out: Path) -> bool:
    """Tell whether a job's run made its bundle although a file failed a quality gate."""
    failed = job.state == "failed" and job.exit_code == GateError.exit_code
    return failed and (out / "bundle" / MANIFEST).is_file() and not _is_open(out, "bundle")


def find_bundle(job: Job, out: Path) -> Path | None:
    """Return the bundle of a finished job, None when there is none to use."""
    return out / "bundle" if has_finished(job, out) and (out / "bundle" / MANIFEST).is_file() else None


def error_line(out: Path) -> str | None:
    """Return the error that the last attempt said as its last word, without its prefix."""
    for line in reversed(_log_lines(out)):
        if line.startswith(ERROR):
            return line.removeprefix(ERROR)
        if line.startswith(ATTEMPT):
            break
    return None


def _log_lines(out: Path) -> list[str]:
    try:
        with (out / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - MAX_LOG_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for raw in text.splitlines() if (line := UNPRINTED.sub("", raw).rstrip())]


def _stages(job: Job, out: Path) -> tuple[StageProgress, ...]:
    records = {step.folder: _record(out / step.folder) for step in STEPS}
    at = len(STEPS) if has_finished(job, out) else _current(out, records)
    here = {"running": "working", "failed": "failed", "cancelled": "stopped"}.get(job.state, "waiting")
    rows = []
    for number, step in enumerate(STEPS):
        record = records[step.folder] if number < at else None
        status = "done" if number < at else here if number == at else "waiting"
        rows.append(StageProgress(step.stage, status, record.seconds if record else None))
    return tuple(rows)


def _current(out: Path, records: dict[str, artifacts.Record | None]) -> int:
    """Return the number of the first stage that works, was cut off or has not begun."""
    for number, step in enumerate(STEPS):
        if _is_open(out, step.folder) or records[step.folder] is None:
            return number
    return len(STEPS)


def _is_open(out: Path, folder: str) -> bool:
    return (out / ".partial" / f"{folder}.json").exists()


def _record(folder: Path) -> artifacts.Record | None:
    try:
        return artifacts.read_record(folder)
    except (ArtifactError, OSError):
        return None


def _verdict(out: Path) -> str:
    try:
        return str(store.read_json(out / "report.json")["verdict"])
    except (OSError, ArtifactError, KeyError, TypeError):
        return ""


def _loss(out: Path, lines: list[str]) -> tuple[tuple[LossPoint, ...], int | None]:
    """Return the curve of the training that works or was the last, and how many steps it has."""
    said = {int(found[1]): found for line in lines if (found := STEP_LINE.match(line))}
    num_steps = int(list(said.values())[-1][2]) if said else None
    points, said_last = _curve(_adapter(out) / "loss.jsonl")
    if points:
        num_steps = said_last or num_steps  # the rows say it as long as training goes on
    else:
        points = [LossPoint(step=step, loss=float(found[3])) for step, found in sorted(said.items())]
    return tuple(points), num_steps


def _least_learned(out: Path) -> tuple[DocumentLoss, ...]:
    rows = islice(_json_lines(_adapter(out) / "document_loss.jsonl"), LEAST_LEARNED)
    return tuple(map(DocumentLoss.model_validate, rows))


def _adapter(out: Path) -> Path:
    """Return the folder of the training that works or was the last."""
    return out / ".partial" / "adapter" if _is_open(out, "adapter") else out / "adapter"


def _curve(file: Path) -> tuple[list[LossPoint], int | None]:
    """Return a curve that may still be written, each step as it was said last, and how many steps there will be.

    Preferences, which have a stage and another unit, are left out.
    """
    points: list[LossPoint] = []
    num_steps = None
    for row in _json_lines(file):
        if {"step", "loss"} <= row.keys() and "stage" not in row:
            num_steps = row.get("num_steps")
            while points and points[-1].step >= row["step"]:
                points.pop()
            points.append(LossPoint(step=row["step"], loss=row["loss"]))
    return points, num_steps


def _corpus(out: Path) -> tuple[tuple[ReadFile, ...], tuple[QuarantinedFile, ...]]:
    """Return what ingest has read and refused so far, sorted by path."""
    folder = out / ".partial" / "corpus" if _is_open(out, "corpus") else out / "corpus"
    files = [folder / PARTIAL]
    if not files[0].exists():
        files = [folder / DOCUMENTS, folder / QUARANTINE]
    read: list[ReadFile] = []
    refused: list[QuarantinedFile] = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            continue
        more_read, more_refused = _rows(file, found.st_mtime_ns, found.st_size)
        read += more_read
        refused += more_refused
    return tuple(sorted(read, key=lambda row: row.path)), tuple(sorted(refused, key=lambda row: row.path))


@functools.lru_cache(maxsize=16)
def _rows(file: Path, mtime_ns: int, size: int) -> tuple[list[ReadFile], list[QuarantinedFile]]:
    """Return a file's documents and refusals; time and size are there so that it is read once a change."""
    read, refused = [], []
    for row in _json_lines(file):
        if "reason" in row:
            refused.append(QuarantinedFile.model_validate(row))
        elif "text" in row:
            read.append(ReadFile(row["path"], len(row["text"])))
    return read, refused


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that may be missing or still be written."""
    try:
        with file.open("rb") as lines:
            for line in lines:
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
    except (OSError, ValueError):
        return
