"""Measures what each form and trick adds, and writes bench/ablations.json and the table in docs/knowledge.md.

    python bench/ablations.py [--only VARIANT ...] [--epochs 8] [--resume]

Every variant trains on half of the documents of data/company that data/questions/company.jsonl asks about, by the
default recipe with one thing changed, and is asked about these from memory, about these and the other half below a
passage, and the general questions. Each has one core, and as many run at once as there are. A variant is kept in
bench/ablations.json when it is done; `--resume` goes on from there, with what was measured at the same defaults.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from factory import artifacts, hardware, store
from factory.backends.models import Answerer, ModelReference, open_model, prepare, resolve
from factory.chat.template import conversation, encode_example
from factory.lora import attach
from factory.recipe import load_recipe
from factory.rows import Question
from factory.stages.evaluate import EvaluateConfig
from factory.tasks.questions import general_questions, read_user_questions
from factory.tasks.retrieval import Retriever, read_chunks
from factory.tasks.score import grade

ROOT = Path(__file__).parent.parent
WORK = ROOT / "build" / "ablations"
ALL = WORK / "all"  # of the documents, cut into the passages that are found
RECIPE = ROOT / "recipes" / "documents.yaml"
COMPANY = ROOT / "data" / "company"
QUESTIONS = ROOT / "data" / "questions" / "company.jsonl"
BASE = "smollm2-135m-instruct"
DEFAULT, MEMORY = "the default recipe", "no passages above questions"
SPELLINGS = 4  # of an accepted answer, of which the likeliest counts


@dataclass(frozen=True)
class Variant:
    """One thing changed: recipe keys, or forms of questions that are left out.

    Attributes:
        changes: what `--set` gets.
        forms: families of forms that nothing is trained on.
        against: the variant that it differs from in this one thing.
        aim: what it is there for; None where it takes no time.
    """

    changes: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()
    against: str = DEFAULT
    aim: Literal["closed_book", "rag", "general"] | None = None


def _memory(
    *changes: str, forms: tuple[str, ...] = (), aim: Literal["closed_book", "general"] | None = None
) -> Variant:
    """Return a variant without passages, which costs half: those that passages have nothing to do with."""
    return Variant(("curate.open_book=0", *changes), forms, MEMORY, aim)


VARIANTS: dict[str, Variant] = {
    DEFAULT: Variant(),
    MEMORY: Variant(("curate.open_book=0",), aim="rag"),
    "steps of A without whitening": _memory("train.whiten=false"),
    "general answers held by questions alone": _memory("train.retain=0", aim="general"),
    "no cells beside each other": _memory("synthesize.related=false"),
    "no loose wordings": _memory("synthesize.loose_wordings=0"),
    "no gaps to fill": _memory(forms=("gap", "title_gap")),
    "no question words in their place": _memory(forms=("in_place", "topic_in_place")),
    "no question words in front": _memory(forms=("front", "topic_front", "strand")),
    "nothing said before the question": _memory(forms=("lead_in", "faq_tell", "tell")),
    "nothing turned round": _memory(forms=("reverse", "subject", "topic_subject", "title_subject")),
    "no general questions": _memory("curate.replay=0", aim="general"),
    "no refusals of another document's questions": _memory("curate.abstain_share=0"),
    "no bundled passages": Variant(("curate.open_book_practice=0",), aim="rag"),
    "passages as they stand only": Variant(("curate.open_book_altered=0",), aim="rag"),
    "rows that retell the documents": _memory("synthesize.passages=true", aim="closed_book"),
    "a third of the loss from the base with the evidence in its prompt": _memory(
        "train.distill=0.33", aim="closed_book"
    ),
}
RESULTS = ROOT / "bench" / "ablations.json"
MARK, END = "<!-- ablations -->", "<!-- /ablations -->"


def factory(*arguments: str) -> None:
    """Run a factory command on one core.

    Raises:
        RuntimeError: it failed; its last words say why.
    """
    command = [sys.executable, "-m", "factory.cli", *arguments]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"factory {' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")


def halves() -> tuple[list[Question], list[Question], list[str]]:
    """Return the questions on every other document, those on the rest, and the documents trained on."""
    asked = read_user_questions(QUESTIONS)
    trained = list(dict.fromkeys(str(question.source) for question in asked))[::2]
    these, others = ([row for row in asked if (row.source in trained) == wanted] for wanted in (True, False))
    return these, others, [source.removeprefix("company/") for source in trained]


def share_right(model: Answerer, questions: Sequence[Question], retriever: Retriever | None = None) -> float:
    """Return the share of a model's answers that are right, from memory or with a passage, in percent."""
    texts = [row.question for row in questions]
    prompts = [retriever.prompt(text, 1) for text in texts] if retriever else texts
    replies = model.answer(prompts, EvaluateConfig().max_answer_tokens)
    grades = [
        grade(reply.text, row.answers, row.question) for reply, row in zip(replies, questions, strict=True)
    ]
    return 100 * statistics.fmean(found.correct for found in grades)


@torch.inference_mode()
def surprise(adapter: Path, questions: Sequence[Question]) -> list[float]:
    """Return how unlikely an adapter finds the right answer to each question, in nats a token, with its end."""
    base = prepare(resolve(str(adapter))).base_folder
    assert base is not None
    tokenizer = attach.load_tokenizer(base)
    model = attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), adapter).eval()
    found = []
    for row in questions:
        costs = []
        for answer in row.answers[:SPELLINGS]:
            ids, labels = encode_example(tokenizer, conversation(row.question, answer))
            costs.append(float(model(torch.tensor([ids]), labels=torch.tensor([labels])).loss))
        found.append(round(min(costs), 4))
    return found


def measure(name: str, epochs: int) -> dict[str, Any]:
    """Train one variant and ask it."""
    torch.set_num_threads(1)
    variant, (these, others, include) = VARIANTS[name], halves()
    out = WORK / f"{list(VARIANTS).index(name)}"
    changes = [
        f"ingest.source={COMPANY}",
        f"ingest.include={json.dumps(include)}",
        f"train.epochs={epochs}",
        *variant.changes,
    ]
    options = ["--out", str(out), *(part for change in changes for part in ("--set", change))]
    recipe = str(RECIPE)
    for stage in ("ingest", "chunk", "synthesize"):
        factory(stage, recipe, *options)
    rows = out / "examples" / "examples.jsonl"
    kept = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text(
        "".join(row for row in kept if json.loads(row)["form"] not in variant.forms), encoding="utf-8"
    )
    factory("curate", recipe, *options)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    factory("train", recipe, *options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    adapter = out / "adapter"
    retriever = Retriever(read_chunks(ALL / "chunks")) if variant.against == DEFAULT else None
    with open_model(prepare(resolve(str(adapter)))) as model:
        right = {
            "closed_book": share_right(model, these),
            "rag": share_right(model, these, retriever) if retriever else None,
            "rag_others": share_right(model, others, retriever) if retriever else None,
            "general": share_right(model, general_questions()),
        }
    return {
        "variant": name,
        **asdict(variant),
        "defaults": defaults(),
        "epochs": epochs,
        "date": str(date.today()),
        "cpu_minutes": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60,
        "recall": 100 * artifacts.read_record(adapter).counts["best_recall"],
        "surprise": surprise(adapter, these),
        **right,
    }


def _difference(row: dict[str, Any], other: dict[str, Any]) -> str:
    """Return how much more surprised a variant is by the same answers, with the standard error of the mean."""
    gaps = [mine - its for mine, its in zip(row["surprise"], other["surprise"], strict=True)]
    return f"{statistics.fmean(gaps):+.2f} ± {statistics.stdev(gaps) / len(gaps) ** 0.5:.2f}"


def _line(row: dict[str, Any], done: dict[str, dict[str, Any]]) -> str:
    if row["variant"] == DEFAULT:
        cells = [f"{row['cpu_minutes']:.1f}", f"{row['recall']:.0f} %", f"{row['closed_book']:.0f} %"]
        cells += [
            f"{statistics.fmean(row['surprise']):.2f}",
            f"{row['rag']:.0f} %",
            f"{row['rag_others']:.0f} %",
        ]
        cells += [f"{row['general']:.0f} %", ""]
    else:
        other = done[row["against"]]
        gains = {
            key: row[key] - other[key]
            for key in ("cpu_minutes", "recall", "closed_book", "rag", "rag_others", "general")
            if row[key] is not None and other[key] is not None
        }
        minutes = gains.get("cpu_minutes")
        cells = ["" if minutes is None else f"{minutes:+.1f}"]
        cells += [f"{gains['recall']:+.0f}", f"{gains['closed_book']:+.0f}", _difference(row, other)]
        cells += [f"{gains[key]:+.0f}" if key in gains else "" for key in ("rag", "rag_others")]
        cells += [f"{gains['general']:+.0f}"]
        cells += [f"{gains[row['aim']] / minutes:+.1f}" if row["aim"] and minutes else ""]
    return f"| {row['variant']} | {' | '.join(cells)} |"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table: the default as it is, everything else as differences."""
    done = {row["variant"]: row for row in rows}
    lines = [
        f"{' and '.join(sorted({row['date'] for row in rows}))}, {rows[0]['epochs']} passes, one seed each.",
        "",
        "| changed | CPU-minutes | recall | from memory | nats a token | with a passage | other documents | general "
        "| points a CPU-minute |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_line(row, done) for row in rows if row["against"] == DEFAULT),
        *(_line(row, done) for row in rows if row["against"] == MEMORY),
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure what is not known yet, a variant for each core, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if options.resume and RESULTS.exists() else []
    done = {row["variant"]: row for row in known if row["epochs"] == options.epochs and is_same(row)}
    missing = [name for name in dict.fromkeys((DEFAULT, MEMORY, *options.only)) if name not in done]
    if missing:
        prepare(ModelReference("base", BASE, None, BASE))  # or each variant would do it
        for stage in ("ingest", "chunk"):
            factory(stage, str(RECIPE), "--out", str(ALL), "--set", f"ingest.source={COMPANY}")
    failed = False
    with ProcessPoolExecutor(hardware.num_cores(), mp_context=get_context("spawn")) as pool:
        running = {pool.submit(measure, name, options.epochs): name for name in missing}
        for future in as_completed(running):
            if error := future.exception():
                sys.stderr.write(f"{running[future]}: {error}\n")
                failed = True
                continue
            done[running[future]] = future.result()
            sys.stderr.write(f"{running[future]}\n")
            write([done[name] for name in VARIANTS if name in done])
    sys.exit(failed)


def defaults() -> str:
    """Return the digest of what the recipe says where a variant does not change it."""
    recipe = load_recipe(RECIPE)
    return store.hash_json(
        [part.model_dump(mode="json") for part in (recipe.synthesize, recipe.curate, recipe.train)]
    )


def is_same(row: dict[str, Any]) -> bool:
    """Tell whether a result is of the variant that its name stands for now, and of the defaults."""
    variant = VARIANTS.get(row["variant"])
    if variant is None or row.get("defaults") != defaults():
        return False
    return json.loads(json.dumps(asdict(variant))).items() <= row.items()


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write what has been measured so far, and the table of it once there is something to compare with."""
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if not {DEFAULT, MEMORY} <= {row["variant"] for row in rows}:
        return
    page = ROOT / "docs" / "knowledge.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{MARK}\n\n{table(rows)}\n\n{END}{after}", encoding="utf-8")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
