"""What the library page says: entries, their lineage and scores as tables of text, two side by side, a push's steps.

Knows no component and no browser; entries and files are looked up by label here, never by a path from outside.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from factory import library
from factory.artifacts import Record, read_record
from factory.bundle.manifest import Manifest, read_manifest
from factory.bundle.modelfile import suggest_model_name
from factory.bundle.ollama import HOST, PushProgress, model_files, push
from factory.errors import FactoryError
from factory.report.model import Report
from factory.scores import Score
from factory.web.markup import Table

DIGEST_LENGTH = 12
NOTHING = "-"
LIST_HEAD = ("Entry", "Kind", "Base", "Base sha256", "Adapter sha256", "Dataset sha256", "Unseen phrasing")


@dataclass(frozen=True)
class Entry:
    """An adapter or a bundle on this disk; what is missing or cannot be read is None."""

    label: str
    folder: Path
    kind: str
    row: Mapping[str, Any]
    manifest: Manifest | None
    record: Record | None
    report: Report | None

    @property
    def base(self) -> str:
        """The name of the base model."""
        return str(self.row["base"].get("name", NOTHING))

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of the bundle, or of the run whose adapter this is."""
        return self.manifest.scores if self.manifest else self.report.scores if self.report else ()


def find_entries(root: Path) -> dict[str, Entry]:
    """Return everything that has been built below a folder, by label."""
    return {entry.label: entry for entry in (_read_entry(root, row) for row in library.find(root))}


def _read_entry(root: Path, row: dict[str, Any]) -> Entry:
    folder, kind = root / row["path"], row["kind"]
    manifest = record = report = None
    try:
        manifest = read_manifest(folder) if kind == "bundle" else None
        record = read_record(folder) if kind == "adapter" else None
    except FactoryError:
        kind = "damaged" if kind == "bundle" else kind  # an adapter from elsewhere has no record
    try:
        if folder.name in {"adapter", "bundle"}:
            report = Report.model_validate_json((folder.parent / "report.json").read_bytes())
    except (OSError, ValidationError):
        report = None
    return Entry(f"{row['name']} ({row['path']})", folder, kind, row, manifest, record, report)


def list_table(entries: Mapping[str, Entry]) -> Table:
    """Return one row an entry: what it is, what it came from, and its headline score."""
    rows = []
    for entry in entries.values():
        lineage = dict(_lineage(entry))
        score = next((score for score in entry.scores if _is_headline(score)), None)
        digests = [lineage.get(name, NOTHING) for name in LIST_HEAD[3:6]]
        headline = share(score) if score else NOTHING
        rows.append([entry.label, entry.kind, entry.base, *digests, headline])
    return Table("Adapters and bundles", LIST_HEAD, rows)


def _is_headline(score: Score) -> bool:
    return (score.kind, score.question_set, score.method) == ("adapter", "unseen_phrasing", "closed_book")


def _lineage(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield what an entry came from, name and value; digests are cut."""
    yield "Base", entry.base
    if manifest := entry.manifest:
        yield "Base sha256", manifest.base.sha256[:DIGEST_LENGTH]
        yield "Base licence", manifest.base.licence
        yield "Base source", manifest.base.source
        for name, origin in manifest.lineage.items():
            yield f"{name.capitalize()} sha256", origin.content[:DIGEST_LENGTH]
    for key in ("rank", "alpha"):
        if key in entry.row:
            yield key.capitalize(), str(entry.row[key])
    if record := entry.record:
        yield "Adapter sha256", record.content[:DIGEST_LENGTH]
        for name, digest in record.inputs.items():
            yield f"{name.capitalize()} sha256", digest[:DIGEST_LENGTH]


def share(score: Score) -> str:
    """Return a score with its 95 % interval and number of questions."""
    return f"{score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}] n={score.n}"


def detail_tables(entry: Entry) -> list[Table]:
    """Return an entry's lineage, scores, files and quality gates; what there is none of is left out."""
    scores = [[_asked(score), _model(score), share(score)] for score in entry.scores]
    tables = [
        Table("Lineage", ("What", "Which"), [list(pair) for pair in _lineage(entry)]),
        Table("Scores", ("Questions", "Model", "Right answers"), scores),
    ]
    if manifest := entry.manifest:
        files = [[file.path, f"{file.bytes:,}", file.sha256[:DIGEST_LENGTH]] for file in manifest.files]
        gates = [
            [
                f"{gate.name} of {gate.subject}",
                str(gate.value),
                str(gate.limit),
                "yes" if gate.passed else "NO",
            ]
            for gate in manifest.gates
        ]
        tables.append(Table("Files", ("File", "Bytes", "sha256"), files, folded=True))
        tables.append(Table("Quality gates", ("Gate", "Value", "Limit", "Met"), gates, folded=True))
    return [table for table in tables if table.rows]


def verdict(entry: Entry) -> str:
    """Return the verdict of an entry's own run, or nothing when its report is missing or of another run."""
    return entry.report.verdict if entry.report and entry.report.scores == entry.scores else ""


def _asked(score: Score) -> str:
    return score.question_set.replace("_", " ")


def _model(score: Score) -> str:
    name = score.kind if score.kind in {"base", "adapter", "merged"} else score.model
    return f"{name} with retrieval" if score.method == "rag" else name


def compare_table(left: Entry, right: Entry) -> Table:
    """Return the scores of two entries side by side, a row for each question set and model."""
    one = {(_asked(score), _model(score)): score for score in left.scores}
    other = {(_asked(score), _model(score)): score for score in right.scores}
    rows = []
    for key in sorted({**one, **other}, key=lambda key: key[0]):
        pair = (one.get(key), other.get(key))
        cells = [share(score) if score else NOTHING for score in pair]
        rows.append([*key, *cells, _difference(*pair)])
    head = ("Questions", "Model", left.label, right.label, "Second minus first")
    return Table("Right answers with 95 % intervals", head, rows)


def _difference(one: Score | None, other: Score | None) -> str:
    """Return how far apart two scores are, and whether chance explains it by Fisher's exact test."""
    if not (one and other and one.n and other.n):
        return NOTHING
    from factory.report.verdict import differ  # brings scipy

    sure = "significant" if differ(one, other, ()) else "not significant"
    return f"{100 * (other.accuracy - one.accuracy):+.1f} points, {sure}"


def compare_note(left: Entry, right: Entry) -> str:
    """Return whether two entries answered the same questions, as far as their lineage tells."""
    digests = [dict(_lineage(entry)).get("Dataset sha256") for entry in (left, right)]
    if digests[0] and digests[0] == digests[1]:
        return "Both come from the same dataset, so they answered the same held-out questions."
    return (
        "They come from different datasets, so a difference on held-out questions may lie in the questions; "
        "the general questions are the same."
    )


def commands(entry: Entry) -> str:
    """Return what to type in a shell to check an entry, pack it up and use it."""
    folder = entry.folder.resolve()
    path, parent = shlex.quote(str(folder)), shlex.quote(str(folder.parent))
    archive = shlex.quote(f"{entry.row['name']}.tar.gz")
    lines = [f"tar -C {parent} -czf {archive} {shlex.quote(folder.name)}"]
    if entry.manifest:
        lines = [f"factory verify {path}", *lines, f"factory push-ollama {path}"]
    return "\n".join([*lines, f"factory ask {path} 'your question'"])


def file_names(entry: Entry | None) -> list[str]:
    """Return the model files of a bundle, the default one first; none for anything else."""
    return [file.path for file in model_files(entry.manifest)] if entry and entry.manifest else []


def ollama_name(entry: Entry | None, file: str | None) -> str:
    """Return a name for a file in Ollama, or nothing when there is no such file."""
    return suggest_model_name(entry.manifest, file) if entry and entry.manifest and file else ""


def push_steps(entry: Entry | None, file: str | None, name: str, host: str = HOST) -> Iterator[str]:
    """Yield what a push is doing, a line each time; the last line says how it ended."""
    if entry is None or file not in file_names(entry):
        yield "Not pushed: choose a bundle and one of its files."
        return
    try:
        for step in push(entry.folder, name.strip(), file=file, host=host):
            yield _progress_line(step)
    except FactoryError as error:
        yield f"Not pushed: {error}"
        return
    yield f"Done. Run it with: ollama run {name.strip()}"


def _progress_line(step: PushProgress) -> str:
    if not step.total:
        return f"{step.status} …"
    return f"{step.status}: {step.done >> 20} of {step.total >> 20} MiB ({step.done / step.total:.0%})"
