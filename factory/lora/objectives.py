"""What training minimises: cross-entropy, context distillation, or the preference for one answer over another.

An objective turns rows into a loss through an engine. Knows rows and losses; not steps, schedules or files that
people wrote.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import torch

from factory.lora import distill
from factory.lora.batches import EncodedRow, num_labels
from factory.lora.engine import Engine
from factory.lora.losses import SoftTargets, join, no_targets


class Objective(Protocol):
    """A loss over rows that a loop knows by number."""

    def prepare(self, engine: Engine) -> None:
        """Compute what training is compared with, once, while the engine holds the model as training finds it."""
        ...

    def size(self, rows: Sequence[EncodedRow]) -> int:
        """Return how many losses a step's rows have, of which it takes the mean."""
        ...

    def losses(
        self,
        engine: Engine,
        numbers: Sequence[int],
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return the losses of rows, one after another, each as many as `size` counts, shape (size,).

        `numbers` are those of the rows, `below` is what the engine's `lower` returned.
        """
        ...


class CrossEntropy:
    """The answer's tokens as they are, each as much as any other."""

    def prepare(self, engine: Engine) -> None:
        """Do nothing: the rows hold all there is to know."""

    def size(self, rows: Sequence[EncodedRow]) -> int:
        """Return how many tokens carry loss."""
        return sum(num_labels(row) for row in rows)

    def losses(
        self,
        engine: Engine,
        numbers: Sequence[int],
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return each answer token's cross-entropy in nats."""
        return engine.token_losses(rows, below)


class Distillation(CrossEntropy):
    """Cross-entropy mixed with the divergence from the same model, untrained and with the passage in its prompt.

    The teacher speaks only where its likeliest token is the answer's: elsewhere its mistake would be learned. Of a
    model's own answers its distribution is learned alone: their tokens would teach it to be surer than it was.
    """

    def __init__(
        self, share: float, teachers: Sequence[EncodedRow | None], cache: Path, own: Collection[int] = ()
    ) -> None:
        """Keep, by a row's number, what its teacher reads; nothing is computed yet.

        Args:
            share: of the divergence in the loss of a token where the teacher speaks.
            teachers: a row for each row that is trained on: the same answer behind another prompt, or None.
            cache: the file of what the teacher said, for a run that goes on.
            own: the numbers of rows with the model's own answers, which are their own teachers.
        """
        self._share, self._teachers, self._cache, self._own = share, teachers, cache, own
        self._soft: dict[int, SoftTargets] = {}
        self._count = distill.TOP

    def prepare(self, engine: Engine) -> None:
        """Ask the teacher: a fresh adapter changes nothing, so that the engine's model is the base."""
        shares = [1.0 if number in self._own else self._share for number in range(len(self._teachers))]
        self._soft = distill.soft_targets(engine, self._teachers, shares, self._cache)
        self._count = next((soft.ids.shape[1] for soft in self._soft.values()), distill.TOP)

    @property
    def num_spoken(self) -> int:
        """The number of answer tokens, of all rows, whose teacher speaks."""
        return sum(int((soft.weights > 0).sum()) for soft in self._soft.values())

    def losses(
        self,
        engine: Engine,
        numbers: Sequence[int],
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return each answer token's mixture in nats."""
        if not any(number in self._soft for number in numbers):
            return engine.token_losses(rows, below)
        parts = [
            self._soft[number] if number in self._soft else no_targets(num_labels(row), self._count)
            for number, row in zip(numbers, rows, strict=True)
        ]
        return engine.token_losses(rows, below, join(parts))


class Preference:
    """Direct preference optimization: the sigmoid loss of 2305.18290, equation 7, against the model as it was.

    The rows that a loop knows are the chosen answers.
    """

    def __init__(self, chosen: Sequence[EncodedRow], rejected: Sequence[EncodedRow], beta: float) -> None:
        """Keep the pairs, in order; `beta` holds the model near what it was."""
        self._chosen, self._rejected, self._beta = chosen, rejected, beta
        self._before: list[float] = []

    def prepare(self, engine: Engine) -> None:
        """Measure by how much the model prefers each chosen answer already."""
        self._before = self._margins(engine)

    def gains(self, engine: Engine) -> list[float]:
        """Return by how much, in nats, each chosen answer gained on the rejected one since `prepare`."""
        return [now - before for now, before in zip(self._margins(engine), self._before, strict=True)]

    def size(self, rows: Sequence[EncodedRow]) -> int:
        """Return the number of pairs."""
        return len(rows)

    def losses(
        self,
        engine: Engine,
        numbers: Sequence[int],
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        """Return each pair's loss in nats; a pair is computed at once, behind one copy of its prompt."""
        losses = [
            -torch.nn.functional.logsigmoid(
                self._beta * (margin(engine, row, self._rejected[number]) - self._before[number])
            )
            for number, row in zip(numbers, rows, strict=True)
        ]
        return torch.stack(losses)

    @torch.no_grad()
    def _margins(self, engine: Engine) -> list[float]:
        pairs = zip(self._chosen, self._rejected, strict=True)
        return [float(margin(engine, chosen, rejected)) for chosen, rejected in pairs]


def margin(engine: Engine, chosen: EncodedRow, rejected: EncodedRow) -> torch.Tensor:
    """Return the log-probability of one answer less that of another, each summed over its tokens, in nats."""
    losses = engine.token_losses([chosen, rejected], None)
    return losses[num_labels(chosen) :].sum() - losses[: num_labels(chosen)].sum()
