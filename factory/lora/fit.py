"""How many rows at once fit into the memory there is. Knows predictions; what they consist of is `memory`'s.

The rows of an optimizer step stay the same: only their split into forward passes changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from factory import hardware
from factory.lora.memory import Load, Parts, Setup, opening, recall_step, train_step


@dataclass(frozen=True)
class Choice:
    """Rows at once, and what training needs with them at its worst; `fits` is whether that is available."""

    micro_batch: int
    parts: Parts
    fits: bool


def training_peak(setup: Setup, load: Load, rows: int) -> Parts:
    """Return the parts of whichever needs most: a step on that many rows, measuring recall, or the beginning."""
    moments = (train_step(setup, load, rows), recall_step(setup, load), opening(setup))
    return max(moments, key=lambda parts: parts.total)


def choose_micro_batch(needed: Callable[[int], float], available: float, batch_size: int) -> int | None:
    """Return the most rows at once that fit, a batch being split evenly; None where not even one does.

    `needed` gives the bytes for a number of rows and never falls with it.
    """
    for num_parts in range(1, batch_size + 1):
        rows = -(-batch_size // num_parts)
        if needed(rows) <= available:
            return rows
    return None


def plan_training(
    setup: Setup, load: Load, batch_size: int, available: float, micro_batch: int | Literal["auto"] = "auto"
) -> Choice:
    """Return how many rows to compute at once, given or else the most that fit, and what that needs."""
    if micro_batch == "auto":
        rows = choose_micro_batch(lambda rows: training_peak(setup, load, rows).total, available, batch_size)
    else:
        rows = min(micro_batch, batch_size)
    parts = training_peak(setup, load, rows or 1)
    return Choice(rows or 1, parts, parts.total <= available)


def available_bytes(device: str) -> int:
    """Return the memory that can be used now on `cpu` or `cuda`."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else hardware.available_memory_bytes()


def device_peak(device: str) -> dict[str, int]:
    """Return the most memory this process has held on a GPU, as a record's count; nothing for a CPU."""
    return {"peak_gpu_memory_bytes": torch.cuda.max_memory_reserved()} if device == "cuda" else {}
