"""Measures what the project promises about time and memory, and writes bench/results.json and bench/results.md.

    python bench/run.py [--documents FOLDER] [--run FOLDER]

`--documents` is a folder to ingest on one core, data/company if not given. `--run` is the finished output folder of
a recipe, build/quickstart if not given: its stages' times and memory are read from its records, and it is run again
to time a run in which nothing has changed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from factory import artifacts, hardware
from factory.stages.ingest import IngestConfig, ingest

ROOT = Path(__file__).parent.parent
REPEATS = 5


def command_seconds(*arguments: str) -> float:
    """Return the median wall time of a factory command."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "factory.cli", *arguments], check=True, capture_output=True, cwd=ROOT
        )
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def ingest_rate(folder: Path) -> float:
    """Return documents a second on one core after start-up: two runs, one over a file of each format, subtracted."""
    times, counts = [], []
    first = {path.suffix: path for path in sorted(folder.rglob("*")) if path.is_file()}.values()
    for include in (("**",), tuple(path.relative_to(folder).as_posix() for path in first)):
        with tempfile.TemporaryDirectory() as work:
            started = time.perf_counter()
            config = IngestConfig(source=folder, include=include)
            counts.append(ingest(config, work=Path(work), previous=None, workers=1)["documents"])
            times.append(time.perf_counter() - started)
    return (counts[0] - counts[1]) / max(1e-9, times[0] - times[1])


def row(work: str, ours: float, limit: float, unit: str) -> dict[str, object]:
    """Return one result; the peer is the promised limit."""
    return {
        "work": work,
        "ours": round(ours, 3),
        "peer": limit,
        "peer_name": "promise",
        "unit": unit,
        "ratio": round(ours / limit, 3),
    }


def learned(report: Path) -> list[dict[str, object]]:
    """Return what a run's report says of held-out phrasings, and what quantizing lost, in points."""
    if not report.exists():
        return []
    scores = json.loads(report.read_text(encoding="utf-8"))["scores"]
    found = {
        score["model"] if score["kind"] == "gguf" else score["kind"]: 100 * score["accuracy"]
        for score in scores
        if score["method"] == "closed_book" and score["question_set"] == "unseen_phrasing"
    }
    rows = [
        row("base, unseen phrasing", found["base"], 10, "% at most"),
        row("adapter, unseen phrasing", found["adapter"], 45, "% at least"),
    ]
    limits = {"model-Q8_0.gguf": 2, "model-Q4_K_M.gguf": 6}
    return rows + [
        row(f"{name} below the adapter", found["adapter"] - found[name], limits[name], "points at most")
        for name in sorted(limits)
        if name in found
    ]


def measure(documents: Path, run: Path) -> list[dict[str, object]]:
    """Return all results that can be measured with what is there."""
    rows = [row("factory --help", command_seconds("--help"), 0.5, "s")]
    rows.append(
        row(f"ingest of {documents.name}, one core after start-up", ingest_rate(documents), 30, "documents/s")
    )
    records = [artifacts.read_record(path.parent) for path in sorted(run.glob("*/record.json"))]
    if records:
        rows.append(row(f"{run.name}: all stages", sum(record.seconds for record in records), 900, "s"))
        peak = max(record.peak_memory_bytes for record in records) / 2**30
        rows.append(row(f"{run.name}: peak memory of the process tree", peak, 4, "GiB"))
    rows += learned(run / "report.json")
    recipe = ROOT / "recipes" / f"{run.name}.yaml"
    if len(records) >= 10 and recipe.exists():
        again = command_seconds("run", str(recipe), "--out", str(run))
        rows.append(row(f"{run.name}: run again, nothing changed", again, 10, "s"))
    return rows


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=Path, default=ROOT / "data" / "company")
    parser.add_argument("--run", type=Path, default=ROOT / "build" / "quickstart")
    options = parser.parse_args()
    rows = measure(options.documents, options.run)
    out = ROOT / "bench"
    (out / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"Measured on {hardware.describe_machine()}, {date.today().isoformat()}; medians of {REPEATS} for commands.",
        "",
        "| work | measured | promise | unit |",
        "| --- | --- | --- | --- |",
        *[f"| {line['work']} | {line['ours']} | {line['peer']} | {line['unit']} |" for line in rows],
        "",
    ]
    (out / "results.md").write_text("\n".join(lines), encoding="utf-8")
    sys.stdout.write("\n".join(lines))


if __name__ == "__main__":
    main()
