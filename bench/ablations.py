"""Measures what each form and trick adds, and writes bench/ablations.json and the table in docs/knowledge.md.

    python bench/ablations.py [--only VARIANT ...] [--epochs 8] [--resume]

Every variant trains on the documents of data/company that data/questions/company.jsonl asks about, by the default
recipe with one thing changed, and is asked those questions from memory and below a passage, and the general ones. A
variant is kept in build/ablations/done.jsonl when it is done; `--resume` goes on from there.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from factory import hardware

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "ablations"
QUESTIONS = ROOT / "data" / "questions" / "company.jsonl"
GENERAL = ROOT / "factory" / "tasks" / "general.jsonl"
STAGES = ("ingest", "chunk", "synthesize", "curate", "train")
DEFAULT = "the default recipe"
# What is changed, and how; each stands alone.
VARIANTS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "no loose wordings": ("synthesize.loose_wordings=0",),
    "twice as many loose wordings": ("synthesize.loose_wordings=16",),
    "rows that retell the documents": ("synthesize.passages=true",),
    "no passages above questions": ("curate.open_book=0",),
    "passages as they stand only": ("curate.open_book_altered=0",),
    "no bundled passages": ("curate.open_book_practice=0",),
    "no general questions": ("curate.replay=0",),
    "a third of the loss from the base with the evidence in its prompt": ("train.distill=0.33",),
    "rank 16": ("train.rank=16",),
    "B learns four times as fast as A": ("train.lora_plus=4",),
}
MARK, END = "<!-- ablations -->", "<!-- /ablations -->"


def factory(*arguments: str) -> None:
    """Run a factory command.

    Raises:
        RuntimeError: it failed; its last words say why.
    """
    command = [sys.executable, "-m", "factory.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"factory {' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")


def accuracy(adapter: Path, questions: Path, *options: str) -> dict[str, float]:
    """Return the share of an adapter's answers that are right, from memory and with a passage, in percent."""
    kept = adapter.with_name("scores.json")
    factory("evaluate", str(adapter), "--questions", str(questions), "--json", str(kept), *options)
    scores = json.loads(kept.read_text(encoding="utf-8"))
    return {score["method"]: 100 * score["accuracy"] for score in scores if score["model"] == adapter.name}


def measure(variant: str, epochs: int) -> dict[str, Any]:
    """Train one variant and ask it."""
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    include = sorted({row["source"].removeprefix("company/") for row in rows})
    out = WORK / f"{list(VARIANTS).index(variant)}"
    changes = [
        f"ingest.source={ROOT / 'data' / 'company'}",
        f"ingest.include={json.dumps(include)}",
        f"train.epochs={epochs}",
        *VARIANTS[variant],
    ]
    options = ["--out", str(out), *(part for change in changes for part in ("--set", change))]
    for stage in STAGES:
        started = time.perf_counter()
        factory(stage, str(ROOT / "recipes" / "documents.yaml"), *options)
    minutes = (time.perf_counter() - started) / 60  # of the last stage
    known = accuracy(out / "adapter", QUESTIONS, "--rag", str(out / "chunks"))
    return {
        "variant": variant,
        "epochs": epochs,
        "minutes": minutes,
        "closed_book": known["closed_book"],
        "rag": known["rag"],
        "general": accuracy(out / "adapter", GENERAL)["closed_book"],
    }


def table(done: list[dict[str, Any]]) -> str:
    """Return the results as a table: the default as it is, everything else as differences from it."""
    first, *others = done
    lines = [
        f"{date.today()}, {hardware.num_cores()} cores, {first['epochs']} passes, one seed each: 5 points are chance.",
        "",
        "| changed | training | from memory | with a passage | general |",
        "| --- | --- | --- | --- | --- |",
        f"| {first['variant']} | {first['minutes']:.1f} min | {first['closed_book']:.0f} % | "
        f"{first['rag']:.0f} % | {first['general']:.0f} % |",
    ]
    for row in others:
        gains = (f"{row[key] - first[key]:+.0f}" for key in ("closed_book", "rag", "general"))
        lines.append(f"| {row['variant']} | {row['minutes'] - first['minutes']:+.1f} | {' | '.join(gains)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not known yet and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    kept = WORK / "done.jsonl"
    if not (options.resume and kept.exists()):
        kept.write_text("", encoding="utf-8")
    known = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    done = {row["variant"]: row for row in known if row["epochs"] == options.epochs}
    for variant in dict.fromkeys((DEFAULT, *options.only)):
        if variant not in done:
            sys.stderr.write(f"{variant}\n")
            done[variant] = measure(variant, options.epochs)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[variant]) + "\n")
    rows = [done[variant] for variant in VARIANTS if variant in done]
    (ROOT / "bench" / "ablations.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "knowledge.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{MARK}\n\n{table(rows)}\n\n{END}{after}", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
