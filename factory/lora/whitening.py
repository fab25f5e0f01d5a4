"""Steps of A as if its inputs were white: what a layer reads lies near a few directions, which hide all others.

On short questions one direction holds a fifth to three fifths of the energy of a layer's inputs, 64 of 576 hold 73 to
96 %. A gradient of A is a sum of inputs, so plain steps go where all inputs lie, and not where they differ. Written as
A = A'S, with S the damped inverse root of the inputs' covariance, A' has the gradient of A times S, and a step of A'
moves A by that step times S (preconditioning as in K-FAC, Martens and Grosse, arXiv:1503.05671, for inputs alone and
kept fixed).
Knows models and rows; not steps or schedules.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factory.lora.adapter import adapted_layers, reads_rows
from factory.lora.batches import EncodedRow, collate
from factory.lora.initial import ADAPTER
from factory.lora.step import autocast

DIRECTIONS = 128  # told apart; all others are scaled alike
DAMPING = 0.05  # of the mean energy of a direction
TOKENS = 2048  # looked at


@dataclass(frozen=True)
class Directions:
    """S for the inputs of a layer with D features: `scales_K` along the columns of `vectors_DK`, else `rest`."""

    vectors_DK: torch.Tensor
    scales_K: torch.Tensor
    rest: float

    def scale_(self, rows_RD: torch.Tensor) -> torch.Tensor:
        """Multiply vectors by S, which is symmetric, in place, and return them."""
        along_RK = (rows_RD @ self.vectors_DK).mul_(self.scales_K - self.rest)
        return rows_RD.mul_(self.rest).addmm_(along_RK, self.vectors_DK.T)

    def to(self, device: str) -> "Directions":
        """Return the same on a device."""
        return Directions(self.vectors_DK.to(device), self.scales_K.to(device), self.rest)


Whitening = Mapping[str, Directions]  # by the name of A among the model's parameters
NONE: Whitening = {}


@torch.no_grad()
def look_at_inputs(
    model: Any, rows: Sequence[EncodedRow], device: str, dtype: torch.dtype
) -> dict[str, Directions]:
    """Return the directions of what each layer with an adapter reads on some rows; weights of experts have none.

    The same model and rows give the same directions, on the CPU; no rows give none.
    """
    if not rows:
        return {}
    layers: list[Any] = [layer for _, layer in adapted_layers(model) if reads_rows(layer)]
    names = {id(value): name for name, value in model.named_parameters()}
    batch = collate(some_rows(rows, TOKENS), pad_id=0).to(device)
    found: dict[str, Directions] = {}
    last: list[Any] = [None, None]  # modules beside each other read the same tensor

    def look(layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0] is not last[0]:
            read = inputs[0][batch.mask.bool()] if inputs[0].shape[:2] == batch.mask.shape else inputs[0]
            with autocast(device, torch.float32):  # off: the model's own would round what is found here
                last[:] = inputs[0], _directions(read.flatten(0, -2).float())
        if last[1] is not None:
            found[names[id(layer.lora_A[ADAPTER].weight)]] = last[1]

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(), autocast(device, dtype):
            torch.manual_seed(0)
            model(input_ids=batch.ids, attention_mask=batch.mask, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    return found


@torch.no_grad()
def begin_whitened(model: Any, whitening: Whitening) -> None:
    """Let a fresh A be a random A' times S: B, zero as yet, begins with the same view of the inputs."""
    for name, value in model.named_parameters():
        if name in whitening:
            value.copy_(whitening[name].scale_(value.cpu().clone()))


def on_device(whitening: Whitening, device: str) -> Whitening:
    """Return the same on a device; what layers share they still share."""
    unique = {id(directions): directions.to(device) for directions in whitening.values()}
    return {name: unique[id(directions)] for name, directions in whitening.items()}


def most_directions(size: int) -> int:
    """Return how many directions of so many are told apart, where there are enough tokens."""
    return min(DIRECTIONS, size // 2)


def some_rows(rows: Sequence[EncodedRow], num_tokens: int) -> list[EncodedRow]:
    """Return rows from all over the data with about so many tokens, the same in every run."""
    chosen, left = [], num_tokens
    for row in random.Random(0).sample(rows, len(rows)):
        chosen.append(row)
        left -= len(row.ids)
        if left <= 0:
            break
    return chosen


def _directions(read_ND: torch.Tensor) -> Directions | None:
    """Return the main directions of some inputs, or None where there are too few to tell."""
    tokens, size = read_ND.shape
    count = min(most_directions(size), tokens // 4)
    energy = float(read_ND.square().sum())
    if count < 1 or not 0 < energy < float("inf"):
        return None
    _, sizes_K, vectors_DK = torch.svd_lowrank(read_ND, count, niter=2)
    mean = energy / size
    main_K = sizes_K.square() / mean
    others = max(0.0, size - float(main_K.sum())) / (size - count)
    scales_K, rest = (main_K + DAMPING).rsqrt(), (others + DAMPING) ** -0.5
    return Directions(vectors_DK.cpu().contiguous(), scales_K.cpu(), rest)
