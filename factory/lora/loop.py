"""The training loop: epochs of batches, checkpoints, recall on held-out phrasings, the best state kept.

Knows steps, loss and progress; what a row means, or where an artefact lies, is for others.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from factory import hardware
from factory.errors import TrainError
from factory.lora import checkpoint, distributed, flops, killed, shortage
from factory.lora.adapter import parameter_groups
from factory.lora.batches import (
    EncodedRow,
    Parts,
    epoch_batches,
    num_tokens,
    order_digest,
    parts_of,
    share_of,
)
from factory.lora.checkpoint import Progress
from factory.lora.documents import Seen, Tally
from factory.lora.engine import Engine, open_engine
from factory.lora.interruption import Interruption
from factory.lora.objectives import CrossEntropy, Objective
from factory.lora.optimizer import Optimizer, Penalty
from factory.lora.settings import LoopSettings, is_flat, learning_rate
from factory.lora.step import like_lengths
from factory.lora.threads import Threads
from factory.lora.whitening import NONE, Whitening

logger = logging.getLogger(__name__)
LOWER_BATCH = 32  # rows; on two cores the frozen layers cost a third less a row than at 8
Findings = dict[str, dict[str, float]]


def accumulate(
    engine: Engine,
    objective: Objective,
    rows: Sequence[EncodedRow],
    parts: Parts,
    below: Mapping[int, torch.Tensor] | None,
    size: int,
    backward: Callable[[torch.Tensor], None],
    seen: list[Seen] | None = None,
) -> torch.Tensor:
    """Add the gradient of some rows' loss, a part after another, and return that loss in nats.

    `parts` are numbers of rows with a weight, `below` what the engine's `lower` returned for each number, or None to
    compute it here; `size` is what the loss is the mean over. What each part's losses were is added to `seen`.
    """
    engine.refresh()
    total: Any = 0.0
    for numbers, weight in parts:
        kept = None if below is None else [below[number] for number in numbers]
        losses = objective.losses(engine, numbers, [rows[number] for number in numbers], kept)
        loss = losses.sum() / size * weight
        backward(loss)
        total = total + loss.detach()
        if seen is not None and weight:
            seen.append((numbers, losses.detach()))
    return total


def new_optimizer(
    model: Any, settings: LoopSettings, whitening: Whitening, penalty: Penalty | None = None
) -> Optimizer:
    """Return the optimizer of what is trained, before its first step: moments come with that."""
    parameters = dict(model.named_parameters())
    return Optimizer(
        parameter_groups(model, settings.lora_plus),
        settings.optimizer,
        weight_decay=settings.weight_decay,
        max_gradient_norm=settings.max_gradient_norm,
        dtype=settings.dtype,
        device=settings.device,
        scaled=[(parameters[name], directions) for name, directions in whitening.items()],
        penalty=penalty,
    )


class Loop:
    """One training run; `run` goes on from the newest checkpoint below `checkpoints`, if there is one.

    `report` gets the rows of the curves as they come: one with `loss` for each step, and one with `recall` for each
    measurement. `tally` gets each step's losses by row, and tells them when recall is measured.

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
        objective: Objective | None = None,
        engine: Engine | None = None,
        tally: Tally | None = None,
        whitening: Whitening = NONE,
        penalty: Penalty | None = None,
    ) -> None:
        """Keep what a run needs; nothing is computed yet.

        Without an objective it is the cross-entropy; without the engine of an earlier loop over the same model it gets
        one of its own.
        """
        self.model, self.rows, self.settings, self.checkpoints = model, rows, settings, checkpoints
        self._threads = Threads(settings.device == "cpu" and distributed.num_processes() == 1)
        self._measure_recall, self._report, self._tally = measure_recall, report, tally
        self._objective = objective or CrossEntropy()
        self._engine = engine or open_engine(
            model,
            first_layer,
            settings.dtype,
            settings.device,
            settings.pad_id,
            checkpointing=settings.checkpointing,
            compiled=settings.compiled,
        )
        self._lower: dict[int, torch.Tensor] | None = {} if first_layer else None
        self._optimizer = new_optimizer(model, settings, whitening, penalty)
        self._cost, self._shared = flops.cost_of(model, first_layer), flops.shared_tokens(rows)
        batches = [batch for epoch in range(settings.epochs) for batch in self._batches(epoch)]
        self.num_steps, self._order = len(batches), order_digest(rows, batches)
        self._largest = max(batches, key=self._num_tokens, default=[])

    @property
    def engine(self) -> Engine:
        """The engine, with the model as it is now."""
        self._engine.refresh()
        return self._engine

    def run(self, preflight: Callable[[], Findings] | None = None) -> Progress:
        """Train to the end and leave the best state in the model; `preflight` comes before the first step.

        Of several processes each runs it, on the same rows.

        Raises:
            TrainError: a check before the first step failed, a checkpoint is of another order of rows, the loss is
                not finite, or not even one row fits.
            KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint is written.
        """
        with shortage.refused("before the first step"):
            self.model.eval()
            self._objective.prepare(self._engine)  # before a checkpoint moves the model
            self.model.train()
            found = checkpoint.load_newest(self.checkpoints, self.model, self._optimizer)
        progress = found or Progress()
        self._check_order(progress)
        self._choose_micro_batch(progress)
        try:
            with self._threads:
                self._threads.make_way()
                if preflight and found is None:
                    with shortage.refused("before the first step"):
                        progress.preflight = distributed.in_all(preflight)
                    progress.preflight["largest batch"] = self._try_largest(progress)
                with Interruption() as interruption:
                    self._train(progress, interruption)
        finally:
            killed.unmark(self.checkpoints)
        self._restore_best(progress)
        return progress

    def _check_order(self, progress: Progress) -> None:
        """Refuse to go on in another order than a run began with, or than the main process has."""
        begun = distributed.from_main(progress.order or self._order)
        if self._order != begun:
            raise TrainError(
                f"The digest of rows and their order is {self._order[:12]} at step {progress.step}, the run began with "
                f"{begun[:12]}: some rows would be trained on twice and others never; install the packages that it "
                f"began with, or delete {str(self.checkpoints)!r} to begin anew"
            )
        progress.order = begun

    def _choose_micro_batch(self, progress: Progress) -> None:
        """Take what fitted before and fits now by prediction, less where the system ended the last run for memory."""
        fits = progress.micro_batch or self.settings.batch_size
        progress.micro_batch = min(fits, self.settings.micro_batch, self.settings.batch_size)
        if distributed.num_processes() > 1:
            return
        if tried := killed.killed_with(self.checkpoints):
            progress.micro_batch = min(progress.micro_batch, max(1, tried // 2))
            progress.halvings += tried > 1
            logger.warning(
                "the system killed the last run, with micro_batch %d, for want of memory: going on with %d, and as "
                "many rows a step as before",
                tried, progress.micro_batch,
            )  # fmt: skip
        killed.mark(self.checkpoints, progress.micro_batch)

    def _try_largest(self, progress: Progress) -> dict[str, float]:
        """Compute the gradient of the batch with the most tokens at once: memory is to run out now, not in hours."""
        with torch.random.fork_rng():
            self._fill_lower([self._largest])
            self._gradient(self._largest, progress)
        self._optimizer.clear()
        return {
            "tokens": self._num_tokens(self._largest),
            "micro_batch": progress.micro_batch,
            "memory_bytes": shortage.used_bytes(self.settings.device),
        }

    def _num_tokens(self, numbers: Sequence[int]) -> int:
        """Return the tokens of a batch's largest part, as its engine computes it."""
        shared = self._engine.shares_prefixes
        parts = parts_of(self.rows, numbers, self.settings.micro_batch, shared=shared)
        sizes = (
            num_tokens(self.rows, part) if shared else sum(len(self.rows[number].ids) for number in part)
            for part in parts
        )
        return max(sizes, default=0)

    def _train(self, progress: Progress, interruption: Interruption) -> None:
        saved = time.monotonic()
        while progress.epoch < self.settings.epochs and not is_flat(self.settings, progress.recall):
            batches = self._batches(progress.epoch)
            self._fill_lower(batches)
            while progress.batch < len(batches):
                self._threads.make_way()
                self._step(batches[progress.batch], progress)
                progress.batch += 1
                interruption.caught = distributed.any_of(interruption.caught)
                if interruption.caught or time.monotonic() - saved > self.settings.checkpoint_seconds:
                    self._save(progress)
                    saved = time.monotonic()
                interruption.pass_on()
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self._end_epoch(progress)
            interruption.caught = distributed.any_of(interruption.caught)
            interruption.pass_on()

    def _batches(self, epoch: int) -> list[list[int]]:
        return epoch_batches(self.rows, epoch, self.settings.seed, self.settings.batch_size)

    def _step(self, numbers: list[int], progress: Progress) -> None:
        started = time.monotonic()
        rate = learning_rate(self.settings, progress.step, self.num_steps)
        total, seen = self._gradient(numbers, progress)
        if not math.isfinite(total):
            raise TrainError(
                f"The loss is {total} at step {progress.step}: lower train.learning_rate (now "
                f"{self.settings.learning_rate}), or set train.precision to float32"
            )
        self._optimizer.step(rate)
        if self._tally:
            self._tally.add(progress.epoch, seen)
        progress.step += 1
        seconds = max(1e-9, time.monotonic() - started)
        progress.seconds += seconds
        rows = [self.rows[number] for number in numbers]
        needed = self._cost.of_batch(rows, self._shared)
        peak = flops.peak_flops(self.settings.device, self.settings.dtype) * distributed.num_processes()
        row = {
            "step": progress.step,
            "epoch": progress.epoch + 1,
            "loss": round(total, 5),
            "learning_rate": rate,
            "tokens_per_second": round(sum(len(row.ids) for row in rows) / seconds, 1),
            "mfu": round(needed / seconds / peak, 4),
            "memory_bytes": shortage.used_bytes(self.settings.device),
            "seconds": round(progress.seconds, 2),
        }
        progress.history.append(row)
        if distributed.is_main():
            self._report({**row, "num_steps": self.num_steps})

    def _gradient(self, numbers: list[int], progress: Progress) -> tuple[float, list[Seen]]:
        """Compute a batch's gradient; return its loss and this process's losses by part.

        Out of memory, all of it is computed again in smaller parts; where one of several processes has run out, all of
        them do so.
        """
        size = self._objective.size([self.rows[number] for number in numbers])
        while True:
            seen: list[Seen] = []
            parts = share_of(
                self.rows,
                numbers,
                progress.micro_batch,
                distributed.rank(),
                distributed.num_processes(),
                shared=self._engine.shares_prefixes,
            )
            ran_out = False
            try:
                loss = accumulate(
                    self._engine,
                    self._objective,
                    self.rows,
                    parts,
                    self._lower,
                    size,
                    self._optimizer.backward,
                    seen,
                )
            except (RuntimeError, MemoryError) as error:
                if not shortage.ran_out(error):
                    raise
                if distributed.is_sharded():
                    raise self._refusal_of_spread(numbers, progress) from error
                ran_out = True
            if not distributed.any_of(ran_out):
                return distributed.sum_gradients(self._optimizer.parameters, loss), seen
            self._optimizer.clear()
            shortage.release()
            self._halve(numbers, progress)

    def _halve(self, numbers: list[int], progress: Progress) -> None:
        tried = _rows_at_once(numbers, progress)
        if tried == 1:
            longest = max(len(self.rows[number].ids) for number in numbers)
            raise shortage.refusal(
                f"at step {progress.step} with micro_batch=1, on rows of up to {longest} tokens"
            )
        progress.micro_batch, progress.halvings = tried // 2, progress.halvings + 1
        logger.warning(
            "memory ran out at step %d with micro_batch %d: going on with %d, and as many rows a step as before",
            progress.step, tried, progress.micro_batch,
        )  # fmt: skip

    def _refusal_of_spread(self, numbers: Sequence[int], progress: Progress) -> TrainError:
        tried = _rows_at_once(numbers, progress)
        return shortage.refusal(
            f"at step {progress.step} with {tried} row(s) at once, while the processes over which the base's weights "
            "are spread wait for this one inside a layer, so that fewer cannot be tried now",
            f"set train.micro_batch below {tried}" if tried > 1 else shortage.REMEDY,
        )

    def _fill_lower(self, batches: list[list[int]]) -> None:
        """Put the rows of an epoch that are new through the frozen layers, in large batches.

        The batches are the same in every run, since a row's last digits depend on what it is computed with: a
        resumed run must meet the same numbers.
        """
        if self._lower is None:
            return
        missing = {number for batch in batches for number in batch if number not in self._lower}
        below = f"below train.first_layer, with {LOWER_BATCH} rows at once"
        with shortage.refused(below, "lower train.max_tokens, set train.first_layer to 0"):
            for part in self._lower_parts():
                if not missing.isdisjoint(part):
                    self._lower.update(
                        zip(part, self._engine.lower([self.rows[n] for n in part]), strict=True)
                    )

    def _lower_parts(self) -> Iterator[list[int]]:
        """Yield all rows' numbers in large batches: of like length, or with a context that the engine shares."""
        shared = self._engine.shares_prefixes
        below = [number for number, row in enumerate(self.rows) if shared and row.context]
        alone = [number for number, row in enumerate(self.rows) if not (shared and row.context)]
        for part in like_lengths([self.rows[number].ids for number in alone], LOWER_BATCH):
            yield [alone[place] for place in part]
        below.sort(key=lambda number: self.rows[number].context)
        yield from parts_of(self.rows, below, LOWER_BATCH, shared=True)

    def _end_epoch(self, progress: Progress) -> None:
        self._warn_of_rising(progress)
        if progress.epoch in self.settings.recall_epochs or progress.epoch == self.settings.epochs:
            recall = self._recall()
            progress.recall.append({"step": progress.step, "epoch": progress.epoch, "recall": recall})
            if distributed.is_main():
                self._report(progress.recall[-1])
            logger.info("epoch %d: recall %.1f %% on held-out phrasings", progress.epoch, 100 * recall)
            if self._tally:
                self._tally.tell()
            if recall >= progress.best_recall:
                progress.best_recall, progress.best_step = recall, progress.step
                self._save_best()
        self._save(progress)

    def _warn_of_rising(self, progress: Progress) -> None:
        """Say so when an epoch's mean loss is above the first one's: hours must not go into a rate that is too high."""
        first, last = (
            statistics.mean(row["loss"] for row in progress.history if row["epoch"] == epoch)
            for epoch in (1, progress.epoch)
        )
        if last > first and distributed.is_main():
            logger.warning(
                "the loss rose from %.2f in the first epoch to %.2f in epoch %d: lower train.learning_rate (now %g)",
                first, last, progress.epoch, self.settings.learning_rate,
            )  # fmt: skip

    def _recall(self) -> float:
        """Return the main process's measurement; the others take part only where it needs their weights."""
        recall = 0.0
        if distributed.is_main() or distributed.is_sharded():
            self.model.eval()
            with shortage.refused("while recall was measured"):
                recall = self._measure_recall()
            hardware.release_memory()
            self.model.train()
        return float(distributed.from_main(recall))

    def _save(self, progress: Progress) -> None:
        if distributed.is_main():
            checkpoint.save(self.checkpoints, self.model, self._optimizer, progress)

    def _save_best(self) -> None:
        if distributed.is_main():
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            checkpoint.save_file(self.checkpoints / "best.pt", checkpoint.trained_state(self.model))

    def _restore_best(self, progress: Progress) -> None:
        if progress.best_step != progress.step:
            path = self.checkpoints / "best.pt"
            best = torch.load(path, weights_only=True) if distributed.is_main() else None
            checkpoint.load_trained(self.model, distributed.from_main(best))


def _rows_at_once(numbers: Sequence[int], progress: Progress) -> int:
    """Return how many of a batch's rows a process computes at once."""
    return min(progress.micro_batch, -(-len(numbers) // distributed.num_processes()))
