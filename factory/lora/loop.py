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
from factory.lora import checkpoint, flops, shortage
from factory.lora.adapter import parameter_groups
from factory.lora.batches import EncodedRow, epoch_batches, micro_batches, num_labels
from factory.lora.checkpoint import Progress
from factory.lora.engine import Engine, open_engine
from factory.lora.interruption import Interruption
from factory.lora.objectives import CrossEntropy, Objective

logger = logging.getLogger(__name__)
LAST_RATE = 0.02  # of the highest learning rate, at the end
LOWER_BATCH = 32  # rows; on two cores the frozen layers cost a third less a row than at 8
Findings = dict[str, dict[str, float]]


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    `batch_size` is rows per optimizer step; `micro_batch` rows per forward pass. The learning rate rises over
    the share `warmup` of all steps and falls along a cosine to a fiftieth; `lora_plus` times as fast for B, where it
    is given. Recall is measured after each epoch in `recall_epochs`.
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
    lora_plus: float | None = None


def learning_rate(settings: LoopSettings, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    rising = settings.warmup * num_steps
    if step < rising:
        return settings.learning_rate * min(1.0, (step + 1) / rising)
    passed = min(1.0, (step - rising) / max(1.0, num_steps - rising))
    return settings.learning_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * passed)))


def accumulate(
    engine: Engine,
    objective: Objective,
    numbers: Sequence[int],
    rows: Sequence[EncodedRow],
    below: Sequence[torch.Tensor] | None,
    micro_batch: int,
) -> float:
    """Add the gradient of the rows' mean loss, `micro_batch` rows at a time, and return that loss in nats.

    `numbers` are those by which the objective knows the rows, `below` is what the engine's `lower` returned for
    them, or None to compute it here.
    """
    size, total = objective.size(rows), 0.0
    engine.refresh()
    for part in micro_batches(list(range(len(rows))), micro_batch):
        kept = None if below is None else [below[place] for place in part]
        named = [numbers[place] for place in part]
        loss = objective.loss(engine, named, [rows[place] for place in part], kept) / size
        loss.backward()
        total += float(loss.detach())
    return total


class Loop:
    """One training run; `run` goes on from the newest checkpoint below `checkpoints`, if there is one.

    `report` gets the rows of the curves as they come: one with `loss` for each step, and one with `recall` for each
    measurement.
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
        objective: Objective | None = None,
    ) -> None:
        """Keep what a run needs; nothing is computed yet. Without an objective it is the cross-entropy."""
        self.model, self.rows, self.settings, self.checkpoints = model, rows, settings, checkpoints
        self._measure_recall, self._report = measure_recall, report
        self._objective = objective or CrossEntropy()
        self._engine = open_engine(model, first_layer, settings.dtype, settings.device, settings.pad_id)
        self._lower: dict[int, torch.Tensor] | None = {} if first_layer else None
        self._parameters = [value for value in model.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(
            parameter_groups(model, settings.lora_plus),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self._cost, self._shared = flops.cost_of(model, first_layer), flops.shared_tokens(rows)
        self.num_steps = sum(len(self._batches(epoch)) for epoch in range(settings.epochs))

    @property
    def engine(self) -> Engine:
        """The engine, with the model as it is now."""
        self._engine.refresh()
        return self._engine

    def run(self, preflight: Callable[[], Findings] | None = None) -> Progress:
        """Train to the end and leave the best state in the model; `preflight` comes before the first step.

        Raises:
            TrainError: a check before the first step failed, the loss is not finite, or not even one row fits.
            KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint is written.
        """
        self.model.eval()
        self._objective.prepare(self._engine)  # before a checkpoint moves the model
        self.model.train()
        progress = checkpoint.load_newest(self.checkpoints, self.model, self._optimizer)
        if progress is None:
            progress = Progress(preflight=preflight() if preflight else {})
        fits = progress.micro_batch or self.settings.batch_size
        progress.micro_batch = min(fits, self.settings.micro_batch, self.settings.batch_size)
        with Interruption() as interruption:
            self._train(progress, interruption)
        self._restore_best(progress)
        return progress

    def _train(self, progress: Progress, interruption: Interruption) -> None:
        saved = time.monotonic()
        while progress.epoch < self.settings.epochs:
            batches = self._batches(progress.epoch)
            self._fill_lower(batches)
            while progress.batch < len(batches):
                self._step(batches[progress.batch], progress)
                progress.batch += 1
                if interruption.caught or time.monotonic() - saved > self.settings.checkpoint_seconds:
                    self._save(progress)
                    saved = time.monotonic()
                interruption.pass_on()
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self._end_epoch(progress)
            interruption.pass_on()

    def _save(self, progress: Progress) -> None:
        checkpoint.save(self.checkpoints, self.model, self._optimizer, progress)

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(self.rows, epoch, self.settings.seed, self.settings.batch_size)

    def _step(self, numbers: list[int], progress: Progress) -> None:
        started = time.monotonic()
        rate = learning_rate(self.settings, progress.step, self.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        total = self._gradient(numbers, progress)
        if not math.isfinite(total):
            raise TrainError(
                f"The loss is {total} at step {progress.step}: lower train.learning_rate (now "
                f"{self.settings.learning_rate}), or set train.precision to float32"
            )
        torch.nn.utils.clip_grad_norm_(self._parameters, self.settings.max_gradient_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        seconds = max(1e-9, time.monotonic() - started)
        progress.seconds += seconds
        rows = [self.rows[number] for number in numbers]
        needed = self._cost.of(rows, self._shared)
        row = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "loss": round(total, 5),
            "learning_rate": rate,
            "tokens_per_second": round(sum(len(row.ids) for row in rows) / seconds, 1),
            "mfu": round(needed / seconds / flops.peak_flops(self.settings.device, self.settings.dtype), 4),
            "memory_bytes": shortage.used_bytes(self.settings.device),
            "seconds": round(progress.seconds, 2),
        }
        progress.history.append(row)
        self._report({**row, "num_steps": self.num_steps})

    def _gradient(self, numbers: list[int], progress: Progress) -> float:
        """Compute a batch's gradient and return its loss; out of memory, all of it again in smaller parts."""
        rows = [self.rows[number] for number in numbers]
        below = None if self._lower is None else [self._lower[number] for number in numbers]
        while True:
            try:
                return accumulate(self._engine, self._objective, numbers, rows, below, progress.micro_batch)
            except (RuntimeError, MemoryError) as error:
                if not shortage.ran_out(error):
                    raise
            self._optimizer.zero_grad(set_to_none=True)
            shortage.release()
            self._halve(rows, progress)

    def _halve(self, rows: list[EncodedRow], progress: Progress) -> None:
        tried = min(progress.micro_batch, len(rows))
        if tried == 1:
            raise TrainError(
                f"Memory ran out at step {progress.step} with micro_batch=1, on rows of up to "
                f"{max(len(row.ids) for row in rows)} tokens: close other programs, lower train.max_tokens or "
                "train.rank, raise train.first_layer, or name a smaller base"
            )
        progress.micro_batch, progress.halvings = tried // 2, progress.halvings + 1
        logger.warning(
            "memory ran out at step %d with micro_batch %d: going on with %d, and as many rows a step as before",
            progress.step, tried, progress.micro_batch,
        )  # fmt: skip

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
            self.model.eval()
            recall = self._measure_recall()
            self.model.train()
            progress.recall.append({"step": progress.step, "epoch": progress.epoch, "recall": recall})
            self._report(progress.recall[-1])
            logger.info("epoch %d: recall %.1f %% on held-out phrasings", progress.epoch, 100 * recall)
            if recall >= progress.best_recall:
                progress.best_recall, progress.best_step = recall, progress.step
                self.checkpoints.mkdir(parents=True, exist_ok=True)
                temporary = self.checkpoints / ".best.tmp"
                torch.save(checkpoint.trained_state(self.model), temporary)
                temporary.replace(self.checkpoints / "best.pt")
        self._save(progress)

    def _restore_best(self, progress: Progress) -> None:
        if progress.best_step != progress.step:
            checkpoint.load_trained(self.model, torch.load(self.checkpoints / "best.pt", weights_only=True))
