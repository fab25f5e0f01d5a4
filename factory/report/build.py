"""Gathers what a run left behind into `report.json` and `report.html`. Reads artefacts; measures nothing itself.

A failed run gets a report, too: what its stages did not get to is left empty, even if an earlier run left it there,
and what cannot be read is listed as a problem.
"""

import json
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from factory import hardware, rows, store
from factory.artifacts import RECORD, read_record
from factory.bundle.manifest import MANIFEST, BundleFile, Gate, all_files, read_manifest
from factory.errors import ArtifactError, ExportError
from factory.report.model import (
    Claim,
    Conflict,
    DocumentLoss,
    FileSize,
    LossPoint,
    QuarantinedFile,
    RecallPoint,
    Report,
    Sample,
    StageTime,
)
from factory.report.page import render_page
from factory.report.verdict import main_set, pick, verdict
from factory.scores import Comparison, DocumentScore, Reply, Score

# Which folder a stage writes, as in the pipeline, which a report knows nothing of.
FOLDERS = {
    "ingest": "corpus",
    "chunk": "chunks",
    "synthesize": "examples",
    "curate": "dataset",
    "train": "adapter",
    "merge": "merged",
    "quantize": "gguf",
    "verify": "checks",
    "evaluate": "evaluation",
    "export": "bundle",
}
CURRENT = {"done", "up to date"}
MAX_LOSS_POINTS = 500
SAMPLES_EACH = 10
LEAST_LEARNED = 10
T = TypeVar("T")


def write_report(
    out: Path, *, recipe_name: str, stages: Sequence[dict[str, Any]], failure: str | None
) -> dict[str, Any]:
    """Write `report.json` and `report.html` into a run's output folder and return the former.

    Args:
        out: the output folder with whatever artefacts are in it.
        recipe_name: the recipe's name.
        stages: a row a stage: name, status, seconds, peak_memory_bytes. Artefacts of stages that are neither done
            nor up to date are left out: they belong to an earlier run.
        failure: why the run stopped, or None when it did not.
    """
    report = gather(out, recipe_name=recipe_name, stages=stages, failure=failure)
    data = report.model_dump(mode="json")
    out.mkdir(parents=True, exist_ok=True)
    store.write_json(out / "report.json", data)
    store.write_text(out / "report.html", render_page(report))
    return data


def gather(out: Path, *, recipe_name: str, stages: Sequence[dict[str, Any]], failure: str | None) -> Report:
    """Return the report of a run from what its stages left in its output folder."""
    states = {row["name"]: row["status"] for row in stages}
    found = _Artefacts(out, {folder for stage, folder in FOLDERS.items() if states.get(stage) in CURRENT})
    scores = found.rows("evaluation/scores.json", Score)
    gates = found.rows("checks/gates.json", Gate)
    comparisons = found.rows("evaluation/comparisons.json", Comparison)
    bundle = found.attempt(f"bundle/{MANIFEST}", lambda path: read_manifest(path.parent), None)
    records = {
        name: found.attempt(f"{name}/{RECORD}", lambda path: read_record(path.parent), None)
        for name in FOLDERS.values()
        if name != "bundle"
    }
    known = {name: record for name, record in records.items() if record}
    return Report(
        recipe=recipe_name,
        verdict=_verdict(scores, gates, comparisons, failure),
        failure=failure,
        machine=hardware.describe_machine(),
        base=bundle.base if bundle else None,
        scores=tuple(scores),
        comparisons=tuple(comparisons),
        gates=tuple(gates),
        stages=tuple(StageTime.model_validate(stage) for stage in stages),
        quarantined=tuple(found.lines("corpus/quarantine.jsonl", QuarantinedFile)),
        conflicts=tuple(found.attempt("dataset/conflicts.jsonl", _conflicts, [])),
        files=tuple(found.attempt(f"bundle/{MANIFEST}", _bundle_files, [])),
        left_out=bundle.left_out if bundle else (),
        sizes=_sizes(found, scores),
        documents=tuple(found.rows("evaluation/documents.json", DocumentScore)),
        loss=_thinned(found.lines("adapter/loss.jsonl", LossPoint)),
        recall=tuple(found.lines("adapter/recall.jsonl", RecallPoint)),
        least_learned=tuple(found.lines("adapter/document_loss.jsonl", DocumentLoss)[:LEAST_LEARNED]),
        samples=_samples(scores, found.lines("evaluation/answers.jsonl", Reply)),
        counts={name: record.counts for name, record in known.items()},
        settings={name: _without_folders(record.config) for name, record in known.items()},
        packages=list(known.values())[-1].packages if known else {},
        problems=tuple(found.problems),
    )


class _Artefacts:
    """Files in the current folders below `out`, read as far as they are there; `problems` says which are unreadable."""

    def __init__(self, out: Path, current: Collection[str]) -> None:
        self._out, self._current = out, current
        self.problems: list[str] = []

    def attempt(self, name: str, read: Callable[[Path], T], missing: T) -> T:
        path = self._out / name
        if name.split("/")[0] not in self._current or not path.exists():
            return missing
        try:
            return read(path)
        except (OSError, ValueError, KeyError, TypeError, ArtifactError, ExportError) as error:
            first = str(error).split("\n")[0]
            self.problems.append(
                f"{name} cannot be read ({type(error).__name__}: {first}): run its stage again"
            )
            return missing

    def json(self, name: str, missing: Any) -> Any:
        return self.attempt(name, store.read_json, missing)

    def rows(self, name: str, row_type: type[T]) -> list[T]:
        many = TypeAdapter(list[row_type])  # type: ignore[valid-type]
        return self.attempt(name, lambda path: many.validate_json(path.read_bytes()), [])

    def lines(self, name: str, row_type: type[T]) -> list[T]:
        """Return a JSON Lines file's rows, of which only the fields of the row type are taken."""
        one = TypeAdapter(row_type)
        fields = set(getattr(row_type, "model_fields", {}))

        def read(path: Path) -> list[T]:
            with path.open(encoding="utf-8") as rows:
                parsed = [json.loads(row) for row in rows]
            return [one.validate_python({key: row[key] for key in fields & row.keys()}) for row in parsed]

        return self.attempt(name, read, [])


def _verdict(
    scores: Sequence[Score], gates: Sequence[Gate], comparisons: Sequence[Comparison], failure: str | None
) -> str:
    if failure is None:
        return verdict(scores, gates, comparisons)
    stopped = "The run did not finish."
    return (
        f"{stopped} {verdict(scores, gates, comparisons)}" if scores else f"{stopped} Nothing was measured."
    )


def _conflicts(path: Path) -> list[Conflict]:
    return [_conflict(row) for row in rows.read_rows(path, rows.Conflict)]


def _conflict(row: rows.Conflict) -> Conflict:
    claims = [
        Claim(document=claim.fact.evidence.document, answer=claim.fact.answer, date=claim.date)
        for claim in row.claims
    ]
    believed = (claim.fact.answer for claim in row.claims if claim.fact.id == row.believed)
    return Conflict(question=row.question, claims=tuple(claims), believed=next(believed, None))


def _bundle_files(manifest: Path) -> list[BundleFile]:
    files = all_files(manifest.parent, read_manifest(manifest.parent))
    return [file.model_copy(update={"path": f"bundle/{file.path}"}) for file in files]


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose absolute paths are cut to their last part: reports are passed on."""
    return {
        key: PurePath(value).name if isinstance(value, str) and _is_absolute(value) else value
        for key, value in config.items()
    }


def _is_absolute(value: str) -> bool:
    return PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()


def _sizes(found: _Artefacts, scores: Sequence[Score]) -> tuple[FileSize, ...]:
    files = found.json("gguf/quantize.json", {}).get("files", {})
    passed = found.json("checks/files.json", {})
    by_model = {
        score.model: score
        for score in scores
        if score.kind == "gguf" and score.question_set == main_set(scores)
    }
    sizes = []
    for name, entry in files.items():
        score = by_model.get(name)
        try:
            size = FileSize(
                file=name,
                bytes=entry["bytes"],
                bits_per_weight=entry["bits_per_weight"],
                types=entry["types"],
                num_fallbacks=entry["num_fallbacks"],
                passed=passed.get(name),
                accuracy=score.accuracy if score else None,
                low=score.low if score else None,
                high=score.high if score else None,
            )
        except (KeyError, TypeError, ValidationError) as error:
            found.problems.append(
                f"gguf/quantize.json has no usable entry for {name!r} ({type(error).__name__})"
            )
            continue
        sizes.append(size)
    return tuple(sorted(sizes, key=lambda size: -size.bytes))


def _thinned(points: list[LossPoint]) -> tuple[LossPoint, ...]:
    kept: list[LossPoint] = []
    for _, stage in groupby(points, key=lambda point: point.stage):
        same = list(stage)
        kept += same[:: -(-len(same) // MAX_LOSS_POINTS)]
    return tuple(kept)


def _samples(scores: Sequence[Score], replies: Sequence[Reply]) -> tuple[Sample, ...]:
    """Return up to ten right and ten wrong answers, spread evenly over the questions that decide."""
    question_set = main_set(scores)
    shown = pick(scores, "gguf", question_set) or pick(scores, "adapter", question_set)
    if shown is None:
        return ()
    wanted = (shown.model, question_set, shown.method)
    mine = [reply for reply in replies if (reply.model, reply.question_set, reply.method) == wanted]
    right = _spread([reply for reply in mine if reply.correct])
    wrong = _spread([reply for reply in mine if not reply.correct])
    fields = set(Sample.model_fields)
    return tuple(Sample.model_validate(reply.model_dump(include=fields)) for reply in [*right, *wrong])


def _spread(replies: list[Reply]) -> list[Reply]:
    if len(replies) <= SAMPLES_EACH:
        return replies
    return [replies[i * len(replies) // SAMPLES_EACH] for i in range(SAMPLES_EACH)]
