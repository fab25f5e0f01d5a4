"""How far the adapter's gradient is from plain peft's in float64, in a process of its own: `bench/gradient.py JOB`.

Every way of computing it gets the same rows and the same adapter, whose B matrices are not zero: at zero, nothing
would flow into A. JOB is what `bench/train.py` writes, as JSON; the result is one line of JSON.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from measure import read_rows, say, versions
from ours import encode, load

from factory.lora.batches import IGNORED, EncodedRow, collate, num_labels
from factory.lora.engine import open_engine

B_SIZE = 0.01  # about what 20 steps at a learning rate of 1e-3 leave in B


def fill(model: Any, seed: int) -> Any:
    """Draw the adapter's B matrices, the same ones for each seed."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=draw) * B_SIZE)
    return model


def gradient(model: Any) -> dict[str, torch.Tensor]:
    """Return the gradients that a backward pass left."""
    return {name: value.grad.double() for name, value in model.named_parameters() if value.requires_grad}


def plain(model: Any, rows: Sequence[EncodedRow], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the gradient that peft computes, under autocast where the dtype is not float32."""
    batch = collate(rows, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits[:, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # float64 stays what it is
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
        )
    loss.backward()
    return gradient(model)


def ours(model: Any, rows: Sequence[EncodedRow], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the gradient that the project's engine computes."""
    engine = open_engine(model, 0, dtype, "cpu", 0)
    engine.refresh()
    (engine.token_losses(rows, None).sum() / sum(num_labels(row) for row in rows)).backward()
    return gradient(model)


def error(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> dict[str, object]:
    """Return the relative error of the whole gradient, and that of the tensor which is furthest off."""
    off = {name: float((found[name] - value).norm()) for name, value in right.items()}
    size = {name: float(value.norm()) for name, value in right.items()}
    whole = sum(value**2 for value in off.values()) ** 0.5 / sum(value**2 for value in size.values()) ** 0.5
    worst = max(right, key=lambda name: off[name] / max(size[name], 1e-30))
    return {"whole": whole, "worst": off[worst] / max(size[worst], 1e-30), "worst_tensor": worst}


def main(job: dict[str, Any]) -> dict[str, object]:
    """Return the errors of each way of computing the gradient."""
    rows = encode(read_rows(job["rows"], job["batch_size"]))
    full, half = torch.float32, torch.bfloat16
    right = plain(fill(load(job, full), job["seed"]).double(), rows, full)
    ways = {
        "ours_float32": (ours, full, full),
        "ours_bfloat16": (ours, half, half),
        "peft_float32": (plain, full, full),
        "peft_autocast": (plain, full, half),
        "peft_autocast_bfloat16_weights": (plain, half, half),
    }
    found = {
        name: error(way(fill(load(job, weights), job["seed"]), rows, dtype), right)
        for name, (way, weights, dtype) in ways.items()
    }
    return found | {"versions": versions("torch", "transformers", "peft")}


if __name__ == "__main__":
    say(main(json.loads(sys.argv[1])))
