"""What a run would do and cost: states of the stages, time, memory and disk, from recipe and short probe."""

import time
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from factory import hardware, store
from factory.pipeline import STEPS, Run
from factory.rows import Example, read_rows

GIB = 2**30
PROBE_SECONDS = 0.5
LIBRARIES_BYTES = 700 << 20  # torch, transformers and peft once imported, measured on Linux x86-64
SLACK = 1.15
SAMPLED_ROWS = 500
TURN_TOKENS = 5  # what ChatML puts around a turn: <|im_start|>, role, newline, <|im_end|>, newline
GUESSED_TOKENS = 36.0  # mean row of the sample company
BYTES_A_FACT = 40  # of source files, in the sample company
TIGHT = 0.8  # share of the available memory above which a run is called tight


def make_plan(run: Run) -> dict[str, Any]:
    """Return stage states, estimates and a verdict (`fits`, `tight`, `does not fit`)."""
    shape = _shape(run.base.folder)
    rows, tokens = _workload(run)
    config = run.recipe.train
    share = _trained_share(config.first_layer, shape["layers"])
    at_once = min(config.batch_size, config.micro_batch)
    memory = predict_memory(shape, config.rank, at_once, config.max_tokens, share)
    speed = probe_flops()
    # The frozen part goes forward once in all, the rest forward and back in every epoch.
    passes = 2 * (1 - share) / config.epochs + 5 * share
    minutes = rows * tokens * config.epochs * shape["parameters"] * passes / speed / 60
    disk = 6 * shape["parameters"] * 2 + (64 << 20)
    available, free = hardware.available_memory_bytes(), hardware.free_disk_bytes(run.out)
    return {
        "recipe": run.recipe.name,
        "base": run.base.name,
        "machine": hardware.describe_machine(),
        "stages": [{"name": step.stage, "status": run.status(step)} for step in STEPS],
        "training": {"rows_an_epoch": rows, "tokens_a_row": round(tokens, 1), "minutes": round(minutes, 1)},
        "memory_gib": {"predicted": round(memory / GIB, 2), "available": round(available / GIB, 2)},
        "disk_gib": {"predicted": round(disk / GIB, 2), "free": round(free / GIB, 2)},
        "probe_gflops": round(speed / 1e9, 1),
        "verdict": _verdict(memory, available, disk, free),
    }


def _verdict(memory: float, available: float, disk: float, free: float) -> str:
    if memory > available or disk > free:
        return "does not fit"
    return "tight" if memory > TIGHT * available or disk > TIGHT * free else "fits"


def _shape(folder: Path) -> dict[str, int]:
    config = store.read_json(folder / "config.json")
    width, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    queries, keys = heads * head, config.get("num_key_value_heads", heads) * head
    return {
        "width": width,
        "layers": layers,
        "inner": inner,
        "vocabulary": config["vocab_size"],
        "parameters": layers * (2 * width * (queries + keys) + 3 * width * inner)
        + config["vocab_size"] * width,
        "parameters_a_rank": layers * (4 * width + 2 * (queries + keys) + 3 * (width + inner)),
    }


def _trained_share(first_layer: float, layers: int) -> float:
    return 1 - (first_layer if first_layer < 1 else first_layer / layers)


def predict_memory(
    shape: dict[str, int], rank: int, rows: int, max_tokens: int, trained_share: float = 1.0
) -> float:
    """Return the bytes that training on a CPU in fp32 needs at most.

    Weights; four fp32 numbers a trained parameter (value, gradient, two moments); what each trained layer
    keeps for the backward pass of that many full rows; the logits of answers, a quarter of all tokens.
    """
    adapter = trained_share * shape["parameters_a_rank"] * rank
    tokens = rows * max_tokens
    kept = trained_share * tokens * shape["layers"] * (12 * shape["width"] + 4 * shape["inner"])
    logits = tokens / 4 * shape["vocabulary"] * 4 * 2
    return SLACK * (LIBRARIES_BYTES + 4 * shape["parameters"] + 16 * adapter + kept + logits)


def _workload(run: Run) -> tuple[int, float]:
    """Return rows an epoch and mean tokens a row: from the dataset, else guessed from the sources."""
    rows = run.out / "dataset" / "train.jsonl"
    if rows.is_file():
        return read_workload(rows, run.base.folder)
    size = sum(path.stat().st_size for path in store.walk_files(run.recipe.ingest.source)[:10_000])
    return max(50, min(size // BYTES_A_FACT, 20_000)), GUESSED_TOKENS


def read_workload(rows: Path, base: Path) -> tuple[int, float]:
    """Return rows an epoch (one a fact or passage) and mean tokens a row, from an even sample."""
    examples = list(read_rows(rows, Example))
    if not examples:
        return 0, 0.0
    groups = {row.facts or row.id for row in examples}
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    sampled = examples[:: -(-len(examples) // SAMPLED_ROWS)]
    texts = [message.content for row in sampled for message in row.messages]
    tokens = sum(
        len(code.ids) + TURN_TOKENS for code in tokenizer.encode_batch(texts, add_special_tokens=False)
    )
    return len(groups), tokens / len(sampled)


def probe_flops() -> float:
    """Return the fp32 operations a second of this CPU, from half a second of matrix products."""
    import torch

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    left @ right
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < PROBE_SECONDS:
        left @ right
        products += 1
    return products * 2 * 1024**3 / (time.perf_counter() - started)


def describe(plan: dict[str, Any]) -> str:
    """Return a plan as text."""
    stages = "\n".join(f"  {stage['name']:<11} {stage['status']}" for stage in plan["stages"])
    training, memory, disk = plan["training"], plan["memory_gib"], plan["disk_gib"]
    return (
        f"{plan['recipe']} on {plan['base']} ({plan['machine']})\n{stages}\n"
        f"training  {training['rows_an_epoch']} rows an epoch, about {training['minutes']} minutes\n"
        f"memory    {memory['predicted']} GiB needed, {memory['available']} GiB available\n"
        f"disk      {disk['predicted']} GiB needed, {disk['free']} GiB free\n"
        f"verdict   {plan['verdict']}"
    )
