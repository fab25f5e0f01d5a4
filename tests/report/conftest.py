"""The output folder of a made-up run, as every stage would leave it."""

import hashlib
import json
import random

import pytest

from factory.scores import Reply
from factory.tasks import compare, lm_eval, questions, tally
from tests.made import make_fact

DOCUMENTS = (
    "field/clock-change-march-2026.xlsx",
    "safety/lone-working.docx",
    "sales/terms-of-sale.docx",
    "people/sickness.docx",
    "manuals/heron-manual.pdf",
    "manuals/osprey-manual.pdf",
    "warehouse/forklift-rules.txt",
    "it/larder-faq.md",
    "it/backup-runbook.zip!/runbook.md",
    "history/first-fifty-years.docx",
    "leuvendijk/customs-and-carriage.pdf",
    "suppliers/open-purchase-orders.jsonl",
)
SHARES = {
    ("smollm2-135m-instruct", "base", "closed_book"): {
        "unseen_phrasing": 0.03,
        "unseen_fact": 0.05,
        "general": 0.58,
        "user": 0.02,
    },
    ("adapter", "adapter", "closed_book"): {
        "unseen_phrasing": 0.55,
        "unseen_fact": 0.62,
        "general": 0.52,
        "user": 0.48,
    },
    ("model-Q8_0.gguf", "gguf", "closed_book"): {
        "unseen_phrasing": 0.55,
        "unseen_fact": 0.62,
        "general": 0.52,
        "user": 0.47,
    },
    ("model-Q4_K_M.gguf", "gguf", "closed_book"): {
        "unseen_phrasing": 0.44,
        "unseen_fact": 0.55,
        "general": 0.5,
        "user": 0.38,
    },
    ("smollm2-135m-instruct", "base", "rag"): {"unseen_phrasing": 0.61, "user": 0.58},
}
NUMBERS = {"unseen_phrasing": 150, "unseen_fact": 60, "general": 80, "user": 42}
QUESTIONS = (
    (
        "Who signs off a Heron winding gear before it leaves the works?",
        ("Ottoline Marsh",),
        "The works manager signs it off.",
    ),
    ("What does a spare pawl spring for the Osprey cost?", ("£14.20", "14.20"), "It costs £18.90."),
    ("How long may a lone worker stay in a tower without calling in?", ("45 minutes",), "30 minutes"),
    ("Which carrier takes crates over 60 kg?", ("Brannoch Haulage",), "I do not know that."),
)
MIX = {"types": {"Q8_0": 211, "F32": 61}, "bits_per_weight": 8.51, "num_fallbacks": 0}
SIZES = {
    "model-F16.gguf": 269e6,
    "model-Q8_0.gguf": 144.8e6,
    "model-Q4_K_M.gguf": 105.5e6,
    "adapter.gguf": 19.6e6,
}
SURE_FROM = {"adapter": -0.75, "model-Q8_0.gguf": -0.77, "model-Q4_K_M.gguf": -0.81}
STAGES = (
    ("ingest", "done", 11.4, 640e6),
    ("chunk", "done", 2.1, 410e6),
    ("synthesize", "done", 6.8, 520e6),
    ("curate", "done", 9.3, 530e6),
    ("train", "done", 1290.0, 2.35e9),
    ("merge", "done", 6.2, 1.4e9),
    ("quantize", "done", 55.7, 1.1e9),
    ("verify", "done", 96.2, 1.3e9),
    ("evaluate", "done", 214.5, 1.9e9),
    ("export", "done", 3.0, 390e6),
)


def write_json(path, value):
    """Write a JSON file without waiting for the disk, as the real ones do."""
    path.write_text(json.dumps(value), encoding="utf-8")


def write_record(folder, counts, config=None, packages=None):
    """Write the record of a finished artefact."""
    record = {
        "kind": folder.name,
        "key": hashlib.sha256(folder.name.encode()).hexdigest(),
        "content": "c" * 64,
        "config": config or {},
        "inputs": {},
        "code_version": 1,
        "counts": counts,
        "packages": packages or {"torch": "2.13.0"},
        "python": "3.11.7",
        "seconds": 1.0,
        "peak_memory_bytes": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "record.json", record)


def write_lines(path, rows):
    """Write rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_answers(shares=SHARES, numbers=NUMBERS):
    """Return one reply a question and model, with exactly the given shares right."""
    answers = []
    for (model, kind, method), sets in shares.items():
        for question_set, share in sets.items():
            order = list(range(numbers[question_set]))
            random.Random(f"{model}{method}{question_set}").shuffle(order)
            right = set(order[: round(share * len(order))])
            for i in range(len(order)):
                question, gold, reply = QUESTIONS[i % len(QUESTIONS)]
                answers.append(
                    {
                        "id": f"{question_set}{i}",
                        "question": f"{question} ({question_set} {i})",
                        "answers": [] if question_set == "unseen_fact" else gold,
                        "reply": gold[0] if i in right else reply,
                        "sureness": -0.2 - i % 7 / 10 - (i not in right),
                        "correct": i in right,
                        "exact": i in right,
                        "contains": i in right,
                        "f1": float(i in right),
                        "refused": i in right and question_set == "unseen_fact",
                        "question_set": question_set,
                        "model": model,
                        "kind": kind,
                        "method": method,
                        "source": None if question_set == "general" else DOCUMENTS[i % len(DOCUMENTS)],
                    }
                )
    return answers


def make_scores(answers):
    """Return the scores of replies, as the evaluation writes them."""
    return [score.model_dump() for score in tally.scores(map(Reply.model_validate, answers), SURE_FROM)]


def make_comparisons(answers):
    """Return the comparisons of replies, as the evaluation writes them."""
    return [row.model_dump() for row in compare.comparisons(list(map(Reply.model_validate, answers)))]


def make_gates(failing=()):
    """Return the gates of three files; those of `failing` files fail."""
    subjects = ("adapter.gguf", "model-F16.gguf", "model-Q8_0.gguf", "model-Q4_K_M.gguf")
    rows = [
        {"name": "token_parity", "subject": subject, "value": 1.0, "limit": 1.0, "passed": True}
        for subject in subjects
    ]
    for subject, value in zip(subjects[1:], (0.0002, 0.0041, 0.046), strict=True):
        value, passed = (0.31, False) if subject in failing else (value, True)
        rows.append(
            {"name": "mean_kl_divergence", "subject": subject, "value": value, "limit": 0.1, "passed": passed}
        )
    return [
        *rows,
        {"name": "ends_by_itself", "subject": "model-Q8_0.gguf", "value": 1.0, "limit": 0.95, "passed": True},
    ]


def make_conflict(question, answers, believed=None):
    """Return a conflict of documents, each with its answer and day; `believed` is the number of the right one."""
    claims = [
        {"fact": make_fact(number, answer, document).model_dump(), "date": date}
        for number, (document, answer, date) in enumerate(answers)
    ]
    return {
        "question": question,
        "claims": claims,
        "believed": None if believed is None else claims[believed]["fact"]["id"],
    }


CONFLICTS = (
    make_conflict(
        "What does a TD-40 cost?",
        (("archive/prices.xlsx", "£770", "2024-03-01"), ("sales/prices.xlsx", "£810", "2026-02-03")),
        believed=1,
    ),
    make_conflict("When is tea served?", (("a.md", "10:40", ""), ("b.md", "11:00", "2026-02-03"))),
)


def write_run(out, failing=()):
    """Write everything a finished run leaves, but the bundle."""
    write_record(
        out / "corpus",
        {"documents": 61, "quarantined": 3, "elements": 2904, "characters": 214_337, "reused": 0},
        {"source": "/home/ada/company", "max_file_mib": 50},
    )
    write_lines(
        out / "corpus/quarantine.jsonl",
        [
            {
                "path": "records/old-board-pack.pdf",
                "reason": "encrypted",
                "detail": "The PDF asks for a password.",
            },
            {
                "path": "field/tower-photos.zip!/IMG_0412.heic",
                "reason": "unsupported",
                "detail": "No reader for images.",
            },
            {"path": "sales/macro-quote.xlsm", "reason": "macros", "detail": "The workbook carries macros."},
        ],
    )
    write_record(out / "chunks", {"documents": 61, "chunks": 512, "tokens": 61_204, "largest_tokens": 256})
    write_record(out / "examples", {"facts": 2210, "examples": 15_311, "facts_by_kind": {"table": 1400}})
    write_record(
        out / "dataset",
        {
            "train": 13_870,
            "abstain": 404,
            "near_duplicates": 212,
            "facts": 2210,
            "facts_withheld": 88,
            "valid": 40,
            "unseen_phrasing": 150,
            "unseen_fact": 60,
            "leaks": 0,
        },
        {"near_duplicate_threshold": 0.9},
    )
    write_lines(out / "dataset/conflicts.jsonl", CONFLICTS)
    write_record(
        out / "adapter",
        {
            "steps": 2480,
            "trainable_parameters": 9_768_960,
            "final_loss": 0.211,
            "device": "cpu",
            "precision": "float32",
        },
        {
            "rank": 32,
            "alpha": None,
            "learning_rate": 0.002,
            "epochs": 6,
            "target_modules": ["q_proj", "v_proj"],
        },
        {"torch": "2.13.0", "peft": "0.21.2", "transformers": "5.23.0"},
    )
    noise = random.Random(1)
    write_lines(
        out / "adapter/loss.jsonl",
        [
            {
                "step": s,
                "epoch": s / 400,
                "loss": 0.2 + 3.2 * 2.718 ** (-s / 300) + noise.uniform(-0.12, 0.2),
                "learning_rate": 1e-3,
                "tokens_per_second": 900.0,
                "seconds": 0.5,
            }
            for s in range(1, 2481)
        ],
    )
    recall = (0.05, 0.22, 0.37, 0.46, 0.52, 0.55)
    write_lines(
        out / "adapter/recall.jsonl", [{"step": 413 * (i + 1), "recall": r} for i, r in enumerate(recall)]
    )
    write_lines(
        out / "adapter/document_loss.jsonl",
        [{"document": name, "rows": 12, "loss": 2.4 - 0.2 * i} for i, name in enumerate(DOCUMENTS)],
    )
    for name in ("merged", "gguf", "checks", "evaluation"):
        write_record(out / name, {"files": {}})
    files = {
        name: MIX | {"bytes": int(size), "sha256": "a" * 64, "seconds": 3.0} for name, size in SIZES.items()
    }
    files["model-F16.gguf"] |= {"types": {"F16": 211, "F32": 61}, "bits_per_weight": 16.0}
    files["model-Q4_K_M.gguf"] |= {
        "types": {"Q5_0": 165, "F32": 61, "Q8_0": 31, "Q4_K": 15},
        "bits_per_weight": 6.2,
        "num_fallbacks": 180,
    }
    write_json(out / "gguf/quantize.json", {"files": files, "skipped": {}})
    write_json(out / "checks/gates.json", make_gates(failing))
    write_json(out / "checks/files.json", {name: name not in failing for name in SIZES})
    answers = make_answers()
    write_lines(out / "evaluation/answers.jsonl", answers)
    write_json(out / "evaluation/scores.json", make_scores(answers))
    write_json(out / "evaluation/comparisons.json", make_comparisons(answers))
    lm_eval.write_tasks(out / "evaluation/lm_eval", questions.general_questions()[:3], 24)
    accuracies = (0.0, 0.17, 0.33, 0.4, 0.5, 0.5, 0.58, 0.61, 0.67, 0.75, 0.83, 1.0)
    write_json(
        out / "evaluation/documents.json",
        [
            {
                "document": name,
                "question_set": question_set,
                "n": 9 + i,
                "base": 0.0 if i % 3 else 0.11,
                "adapter": share,
            }
            | ({"rag": min(1.0, 0.4 + 0.06 * i), "rag_n": 5} if i % 4 else {})
            for question_set in ("unseen_phrasing", "user")
            for i, (name, share) in enumerate(zip(DOCUMENTS, accuracies, strict=True))
        ],
    )
    return out


def stage_rows(until=None):
    """Return the stages of a run that got as far as `until`."""
    rows, failed = [], False
    for name, status, seconds, memory in STAGES:
        status = "not run" if failed else "failed" if name == until else status
        failed = failed or name == until
        seconds, memory = (seconds, int(memory)) if status == "done" else (0.0, 0)
        rows.append({"name": name, "status": status, "seconds": seconds, "peak_memory_bytes": memory})
    return rows


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A finished run."""
    return write_run(tmp_path_factory.mktemp("run"))
