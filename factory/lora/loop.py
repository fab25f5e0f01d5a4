"""The training loop: epochs of batches, checkpoints, recall on held-out phrasings, the best state kept.

Knows steps, loss and progress; what a row means, or where an artefact lies, is for others.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factory.errors import TrainError
from factory.lora import checkpoint, distributed
from factory.lora.batches import EncodedRow, epoch_batches, micro_batches, num_labels, share_of
from factory.lora.checkpoint import Progress
from factory.lora.engine import open_engine
from factory.lora.optimizer import Kind, Optimizer

logger = logging.getLogger(__name__)
LAST_RATE = 0.02  # of the highest learning rate, at the end
LOWER_BATCH = 32  # rows; on two cores the frozen layers cost a third less a row than at 8


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    `batch_size` is rows per optimizer step; `micro_batch` rows per forward pass. The learning rate rises over
    the share `warmup` of all steps and falls along a cosine to a fiftieth. Recall is measured after each epoch in
    `recall_epochs`. `checkpointing` is that of activations.
    """

    epochs: int
    batch_size: int
    micro_batch: int
    learning_rate: float
    warmup: float
    weight_decay: float
    max_gradient_norm: float
    recall_epochs: frozenset[int]
    checkpoint_seconds: float
    seed: int
    pad_id: int
    device: str
    dtype: torch.dtype
    optimizer: Kind = "adamw"
    checkpointing: bool = False
    compiled: bool = False


def learning_rate(settings: LoopSettings, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    rising = settings.warmup * num_steps
    if step < rising:
        return settings.learning_rate * min(1.0, (step + 1) / rising)
    passed = min(1.0, (step - rising) / max(1.0, num_steps - rising))
    return settings.learning_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * passed)))


class Loop:
    """One training run; `run` goes on from the newest checkpoint below `checkpoints`, if there is one.

    Several processes share each batch; the main one alone writes, reports and measures.
    """

    def __init__(
        self,
        model: Any,
        first_layer: int,
        rows: Sequence[EncodedRow],
        settings: LoopSettings,
        checkpoints: Path,
        measure_recall: Callable[[], float],
        report: Callable[[dict[str, float]], None],
    ) -> None:
        """Keep what a run needs; nothing is computed yet."""
        self.model, self.rows, self.settings, self.checkpoints = model, rows, settings, checkpoints
        self._measure_recall, self._report = measure_recall, report
        self._engine = open_engine(
            model,
            first_layer,
            settings.dtype,
            settings.device,
            settings.pad_id,
            checkpointing=settings.checkpointing,
            compiled=settings.compiled,
        )
        self._lower: dict[int, torch.Tensor] | None = {} if first_layer else None
        self._optimizer = Optimizer(
            [value for value in model.parameters() if value.requires_grad],
            settings.optimizer,
            weight_decay=settings.weight_decay,
            max_gradient_norm=settings.max_gradient_norm,
            dtype=settings.dtype,
            device=settings.device,
        )
        self.num_steps = sum(len(self._batches(epoch)) for epoch in range(settings.epochs))

    def run(self) -> Progress:
        """Train to the end and leave the best state in the model.

        Raises:
            TrainError: the loss is not finite.
        """
        self.model.train()
        progress = checkpoint.load_newest(self.checkpoints, self.model, self._optimizer) or Progress()
        saved = time.monotonic()
        while progress.epoch < self.settings.epochs:
            batches = self._batches(progress.epoch)
            self._fill_lower(batches)
            while progress.batch < len(batches):
                self._step(batches[progress.batch], progress)
                progress.batch += 1
                if time.monotonic() - saved > self.settings.checkpoint_seconds:
                    self._save(progress)
                    saved = time.monotonic()
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self._end_epoch(progress)
        self._restore_best(progress)
        return progress

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(self.rows, epoch, self.settings.seed, self.settings.batch_size)

    def _step(self, numbers: list[int], progress: Progress) -> None:
        settings = self.settings
        started = time.monotonic()
        rate = learning_rate(settings, progress.step, self.num_steps)
        rows = [self.rows[number] for number in numbers]
        labels = sum(num_labels(row) for row in rows)
        summed = torch.zeros((), device=settings.device)
        self._engine.refresh()
        parts = share_of(numbers, settings.micro_batch, distributed.rank(), distributed.num_processes())
        for part, weight in parts:
            below = None if self._lower is None else [self._lower[number] for number in part]
            loss = self._engine.loss([self.rows[number] for number in part], below) / labels * weight
            self._optimizer.backward(loss)
            summed += loss.detach()
        total = distributed.sum_gradients(self._optimizer.parameters, summed)
        if not math.isfinite(total):
            raise TrainError(
                f"The loss is {total} at step {progress.step}: lower train.learning_rate (now "
                f"{settings.learning_rate}), or set train.precision to float32"
            )
        self._optimizer.step(rate)
        progress.step += 1
        progress.seconds += time.monotonic() - started
        row = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "loss": round(total, 5),
            "learning_rate": rate,
            "tokens_per_second": round(
                sum(len(row.ids) for row in rows) / max(1e-9, time.monotonic() - started), 1
            ),
            "seconds": round(progress.seconds, 2),
        }
        progress.history.append(row)
        if distributed.is_main():
            self._report({**row, "num_steps": self.num_steps})

    def _fill_lower(self, batches: list[list[int]]) -> None:
        """Put the rows of an epoch that are new through the frozen layers, in large batches.

        The batches are the same in every run, since a row's last digits depend on what it is computed with: a
        resumed run must meet the same numbers.
        """
        if self._lower is None:
            return
        missing = {number for batch in batches for number in batch if number not in self._lower}
        order = sorted(range(len(self.rows)), key=lambda number: len(self.rows[number].ids))
        for part in micro_batches(order, LOWER_BATCH):
            if not missing.isdisjoint(part):
                self._lower.update(zip(part, self._engine.lower([self.rows[n] for n in part]), strict=True))

    def _end_epoch(self, progress: Progress) -> None:
        if progress.epoch in self.settings.recall_epochs or progress.epoch == self.settings.epochs:
            recall = self._recall()
            progress.recall.append({"step": progress.step, "epoch": progress.epoch, "recall": recall})
            logger.info("epoch %d: recall %.1f %% on held-out phrasings", progress.epoch, 100 * recall)
            if recall >= progress.best_recall:
                progress.best_recall, progress.best_step = recall, progress.step
                self._save_best()
        self._save(progress)

    def _recall(self) -> float:
        """Return the main process's measurement; the others take part only where it needs their weights."""
        recall = 0.0
        if distributed.is_main() or distributed.is_sharded():
            self.model.eval()
            recall = self._measure_recall()
            self.model.train()
        return float(distributed.from_main(recall))

    def _save(self, progress: Progress) -> None:
        if distributed.is_main():
            checkpoint.save(self.checkpoints, self.model, self._optimizer, progress)

    def _save_best(self) -> None:
        if distributed.is_main():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            temporary = self.checkpoints / ".best.tmp"
            torch.save(checkpoint.trained_state(self.model), temporary)
            temporary.replace(self.checkpoints / "best.pt")

    def _restore_best(self, progress: Progress) -> None:
        if progress.best_step != progress.step and distributed.is_main():
            checkpoint.load_trained(self.model, torch.load(self.checkpoints / "best.pt", weights_only=True))
