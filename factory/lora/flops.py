"""How many operations training needs, and how many the device can do. Knows layers and lengths; not the loop.

A frozen matrix costs 2 operations a weight forward and 2 back to its input; a trained one 2 more for its own gradient.
What an engine computes a second time counts once, and so do the tokens that all rows, or those with one context, begin
with.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from factory.lora.batches import EncodedRow, num_labels

PROBE_SECONDS = 0.2
PROBE_WIDTHS = {"cpu": 1024, "cuda": 8192}  # a GPU is done with a small product before the next can start


@dataclass(frozen=True)
class Cost:
    """Operations of a training step: for a token, a token with loss, and a pair of a token and one that it sees."""

    token: float
    label: float
    pair: float

    def of(self, rows: Sequence[EncodedRow], shared: int = 0) -> float:
        """Return what rows need together; `shared` tokens that all of them begin with are computed once."""
        tokens = sum(len(row.ids) - shared for row in rows) + shared
        pairs = sum(_pairs(len(row.ids)) - _pairs(shared) for row in rows) + _pairs(shared)
        return tokens * self.token + sum(map(num_labels, rows)) * self.label + pairs * self.pair

    def of_batch(self, rows: Sequence[EncodedRow], shared: int) -> float:
        """Return what a step's rows need; a context is computed once, `shared` tokens once for those without any."""
        by_context = groupby(sorted(rows, key=lambda row: row.context), key=lambda row: row.context)
        groups = [(context, list(same)) for context, same in by_context]
        return sum(self.of(same, shared_tokens(same) if context else shared) for context, same in groups)


def _pairs(length: int) -> float:
    return length * (length + 1) / 2


def cost_of(model: Any, first_layer: int) -> Cost:
    """Return the cost of training the layers from `first_layer` on; what lies below is computed apart."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers, config = causal.model.layers[first_layer:], causal.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = sum(_operations(module) for module in layers.modules() if isinstance(module, torch.nn.Linear))
    # Scores and weighted values: two products forward, four back.
    return Cost(token, _operations(causal.lm_head), 12.0 * len(layers) * config.num_attention_heads * width)


def _operations(linear: torch.nn.Linear) -> float:
    return (6.0 if linear.weight.requires_grad else 4.0) * linear.in_features * linear.out_features


def shared_tokens(rows: Sequence[EncodedRow]) -> int:
    """Return how many tokens all rows begin with, answers left out."""
    ids = [row.ids for row in rows]
    first, last = min(ids), max(ids)  # what these two begin with, those between begin with as well
    pairs = enumerate(zip(first, last, strict=False))
    common = next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))
    return min(common, min(len(row.ids) - num_labels(row) for row in rows))


@functools.cache
def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Return the operations a second of the fastest matrix product in a fifth of a second."""
    own = torch.Generator()  # training's random numbers must not depend on whether this was measured before
    width = PROBE_WIDTHS[device]
    left, right = (torch.randn(width, width, generator=own).to(device, dtype) for _ in range(2))
    left @ right
    until, fastest = time.perf_counter() + PROBE_SECONDS, float("inf")
    while (started := time.perf_counter()) < until:
        (left @ right)[0, 0].item()  # waits for a GPU
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * width**3 / fastest
