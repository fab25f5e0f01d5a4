"""A few short rows of a run and what can be tried on them, with everything put back afterwards.

Knows model, engine and rows; not what a result should be.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from factory.lora import checkpoint, distributed, fit
from factory.lora.batches import IGNORED, EncodedRow, micro_batches, num_labels
from factory.lora.engine import Engine
from factory.lora.loop import accumulate, new_optimizer
from factory.lora.objectives import CrossEntropy
from factory.lora.optimizer import Optimizer
from factory.lora.settings import LoopSettings
from factory.lora.step import autocast
from factory.lora.whitening import Whitening

HEAD, TAIL = 16, 48  # tokens that are kept of a row that is longer than both
SCALE = 1024.0  # of losses whose gradient is looked at: float16 has no numbers as small as many are
ROOM = 1.25  # times the weights: what they leave of memory when they are there twice
RATE = 2e-3  # high enough to show an effect within a few steps, low enough not to wreck a model of 135M


def _scaled_backward(loss: torch.Tensor) -> None:
    (SCALE * loss).backward()


@dataclass(frozen=True)
class Trial:
    """What is tried: the run's own model, engine and settings on a few of its rows, cut to be short.

    With a `first_layer` the frozen layers are computed apart, as in the run.
    """

    model: Any
    engine: Engine
    settings: LoopSettings
    rows: Sequence[EncodedRow]
    first_layer: int = 0
    whitening: Whitening = field(default_factory=dict)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [value for value in self.model.parameters() if value.requires_grad]

    @property
    def rate(self) -> float:
        """The learning rate of a trial's steps."""
        return max(RATE / (self.settings.lora_plus or 1.0), self.settings.learning_rate)

    def optimizer(self) -> Optimizer:
        """Return a fresh optimizer of the run's kind; the run's own is left alone, and has no moments yet."""
        return new_optimizer(self.model, self.settings, self.whitening)

    def step(self, optimizer: Optimizer, rows: Sequence[EncodedRow]) -> float:
        """Take one step on some rows and return their loss before it, in nats a token."""
        loss = self.accumulate(rows, len(rows), optimizer.backward)
        optimizer.step(self.rate)
        return loss

    def accumulate(
        self,
        rows: Sequence[EncodedRow],
        micro_batch: int,
        backward: Callable[[torch.Tensor], None] = _scaled_backward,
    ) -> float:
        """Add the gradient of the rows' cross-entropy, for `take_gradient` or an optimizer, and return it, in nats."""
        parts = [(part, 1.0) for part in micro_batches(list(range(len(rows))), micro_batch)]
        labels, below = sum(map(num_labels, rows)), self._below(rows)
        kept = None if below is None else dict(enumerate(below))
        return float(accumulate(self.engine, CrossEntropy(), rows, parts, kept, labels, backward))

    def take_gradient(self) -> torch.Tensor:
        """Return all gradients as one vector, zeros where there is none, and clear them."""
        gradients = [
            torch.zeros_like(value) if value.grad is None else value.grad for value in self.parameters
        ]
        self.model.zero_grad(set_to_none=True)
        return torch.cat([gradient.detach().float().flatten() for gradient in gradients]) / SCALE

    @torch.no_grad()
    def loss(self, *, apart: bool = True) -> float:
        """Return the engine's loss of the rows together, in nats a token, the frozen layers apart or not."""
        below = self._below(self.rows) if apart else None
        return float(self.engine.token_losses(self.rows, below).sum()) / sum(map(num_labels, self.rows))

    @torch.no_grad()
    def plain_loss(self) -> float:
        """Return the rows' loss as the model itself computes it, one row at a time, in nats a token."""
        return sum(map(float, self._plain_losses()))

    def take_plain_gradient(self) -> torch.Tensor:
        """Return that loss's gradient as one vector, as the model's own modules and autograd make it."""
        for loss in self._plain_losses():
            _scaled_backward(loss)
        return self.take_gradient()

    @property
    def fits_in_float32(self) -> bool:
        """Whether the base's weights fit into memory in float32, too; quantized or spread ones do not."""
        frozen = [value for value in self.model.parameters() if not value.requires_grad]
        if distributed.is_sharded() or not all(value.is_floating_point() for value in frozen):
            return False
        return 4 * ROOM * sum(value.numel() for value in frozen) < fit.available_bytes(self.settings.device)

    @contextmanager
    def in_float32(self) -> Iterator["Trial"]:
        """Hold the base's weights in float32 inside the block, and yield what computes in it."""
        kept = [(value, value.data) for value in self.model.parameters() if not value.requires_grad]
        try:
            for value, data in kept:
                value.data = data.float()
            yield replace(self, settings=replace(self.settings, dtype=torch.float32))
        finally:
            for value, data in kept:
                value.data = data

    def _plain_losses(self) -> Iterator[torch.Tensor]:
        """Yield what each row adds to the mean loss of all rows' labels."""
        labels = sum(map(num_labels, self.rows))
        for row in self.rows:
            logits_TV = self._forward(row)[:-1]
            targets_T = torch.tensor(row.labels[1:], device=logits_TV.device)
            yield cross_entropy(logits_TV, targets_T, ignore_index=IGNORED, reduction="sum") / labels

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """Return what the model itself gives for the last row, shape (length, vocabulary), without dropout."""
        self.model.eval()
        logits_TV = self._forward(self.rows[-1])
        self.model.train()
        return logits_TV

    def _below(self, rows: Sequence[EncodedRow]) -> Sequence[torch.Tensor] | None:
        return self.engine.lower(rows) if self.first_layer else None

    def _forward(self, row: EncodedRow) -> torch.Tensor:
        device = self.settings.device
        with autocast(device, self.settings.dtype):
            logits_1TV = self.model(input_ids=torch.tensor([row.ids], device=device), use_cache=False).logits
        return logits_1TV[0].float()


def short_rows(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """Return up to four rows of different lengths from the shorter half, the middle of long ones cut out."""
    order = sorted(rows, key=lambda row: len(row.ids))
    places = sorted({len(order) * eighth // 8 for eighth in (0, 1, 2, 4)})
    return [_cut(order[place]) for place in places]


def _cut(row: EncodedRow) -> EncodedRow:
    if len(row.ids) <= HEAD + TAIL:
        return row
    return replace(row, ids=row.ids[:HEAD] + row.ids[-TAIL:], labels=row.labels[:HEAD] + row.labels[-TAIL:])


@contextmanager
def unchanged(model: Any, engine: Engine) -> Iterator[None]:
    """Put trained tensors, mode, gradients and all random numbers back when the block ends."""
    state, training = checkpoint.trained_state(model), model.training
    kept = random.getstate(), np.random.get_state()  # the generator that libraries draw from
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        checkpoint.load_trained(model, state)
        model.zero_grad(set_to_none=True)
        model.train(training)
        engine.refresh()
