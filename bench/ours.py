"""One measurement of the project's training, in a process of its own: `python bench/ours.py JOB`.

JOB is what `bench/train.py` writes, as JSON; the result is one line of JSON. Steps as `factory.lora.loop` makes them,
with a constant learning rate, so that a trainer with another schedule can take the same ones.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import WARM_STEPS, batches, memory, read_rows, say, summarize, versions

from factory.lora import attach, flops
from factory.lora.batches import EncodedRow, num_labels
from factory.lora.engine import open_engine
from factory.lora.layout import lay_out

GEMM_SIZES = (1024, 2048, 4096)
GEMM_REPEATS = 5


def load(job: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return the base with the adapter on it, ready to train."""
    attach.seed_everything(job["seed"])
    model = attach.load_model(Path(job["base"]), dtype, "cpu")
    return attach.load_adapter(model, Path(job["adapter"]), trainable=True).train()


def encode(rows: Sequence[dict[str, list[int]]]) -> list[EncodedRow]:
    """Return the rows as the engine takes them."""
    return [EncodedRow(tuple(row["ids"]), tuple(row["labels"]), str(n)) for n, row in enumerate(rows)]


def train(
    model: Any, steps: Sequence[Sequence[EncodedRow]], job: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Train through all steps; return when each ended, in seconds, and its loss."""
    engine = open_engine(model, 0, torch.bfloat16, "cpu", 0)
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job["learning_rate"], weight_decay=0.0, fused=True)
    ends, losses = [], []
    for rows in steps:
        engine.refresh()
        loss = engine.token_losses(rows, None).sum() / sum(num_labels(row) for row in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, job["max_gradient_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        ends.append(time.perf_counter())
    return ends, losses


def count_flops(steps: Sequence[Sequence[EncodedRow]], cost: flops.Cost) -> dict[str, float]:
    """Return the operations of the timed steps: with shared beginnings computed once, and with each row whole."""
    once = whole = 0.0
    for rows in steps[WARM_STEPS:]:
        once += cost.of(rows, lay_out(rows).prefix)
        whole += cost.of(rows)
    return {"flops": once, "flops_whole": whole}


def peak_flops() -> float:
    """Return the best rate of a bf16 matrix product on all threads, in operations a second."""
    best = 0.0
    for size in GEMM_SIZES:
        left, right = (torch.randn(size, size).to(torch.bfloat16) for _ in range(2))
        torch.mm(left, right)
        for _ in range(GEMM_REPEATS):
            started = time.perf_counter()
            torch.mm(left, right)
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def main(job: dict[str, Any]) -> dict[str, object]:
    """Return one measurement."""
    rows = read_rows(job["rows"], job["limit"])
    raw = list(batches(rows, job["batch_size"], job["epochs"]))
    steps = [encode(step) for step in raw]
    model = load(job, torch.bfloat16)
    ends, losses = train(model, steps, job)
    result = summarize(raw, ends, losses) | memory() | {"threads": torch.get_num_threads()}
    result |= {"versions": versions("torch", "transformers", "peft")}
    counted = count_flops(steps, flops.cost_of(model, 0))
    return result | counted | {"seconds": ends[-1] - ends[WARM_STEPS - 1], "peak_flops": peak_flops()}


if __name__ == "__main__":
    say(main(json.loads(sys.argv[1])))
