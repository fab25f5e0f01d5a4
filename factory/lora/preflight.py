"""What is tried in seconds before hours are spent: does the loss count, does the adapter learn, can it be resumed.

Each check takes a few short rows and returns what it found in numbers. Knows rows, engine and model; not the schedule.
Afterwards model and random numbers are as before, to the last bit.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from factory.errors import TrainError
from factory.lora import attach, checkpoint
from factory.lora.adapter import first_trained_layer
from factory.lora.batches import IGNORED, EncodedRow, epoch_batches, num_labels
from factory.lora.checkpoint import Progress
from factory.lora.engine import Engine
from factory.lora.loop import Findings
from factory.lora.settings import LoopSettings
from factory.lora.trial import Trial, short_rows, unchanged
from factory.lora.whitening import NONE, Whitening

T = TypeVar("T")
logger = logging.getLogger(__name__)
ORDERED_EPOCHS = 2
OVERFIT_STEPS = 20
EFFECT_STEPS = 8  # the first ones are left out where float16 gradients overflow
LEARNED = 0.3  # of the first loss: what the steps on one row have to take off,
PROMISED = 0.5  # or this share of what the gradient promises of the first step, where an adapter is small
KNOWN = 0.1  # nats a token: a row that the model can say already shows nothing
# Of the value that is compared. In bfloat16 gradients of a few short rows differ by up to 3 % from split to split.
LOSS_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 1e-2}
GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
# bitsandbytes computes the outlier columns of a batch apart, in more bits: losses were seen 0.2 % apart in float32, and
# as near as elsewhere with its threshold for outliers out of reach.
EIGHT_BIT_LOSS_TOLERANCE, EIGHT_BIT_TOLERANCE = 1e-2, 0.1
ENGINE_TOLERANCE = 3.0  # times as much, between ways to compute that round in other places
# Where the model's own modules can compute in bfloat16 only: after one step on the rows their loss was seen 2.4 % and
# their gradient 25 % off the exact ones, the engine's 0.01 and 4 %. Only gross faults show then.
ROUNDED_LOSS_TOLERANCE, ROUNDED_TOLERANCE = 0.1, 0.4
NO_GRADIENT = "does not require grad"  # torch's words when no adapter is behind the loss
SAME = 1e-6  # of a loss that is computed twice in the same way


def run(
    model: Any,
    engine: Engine,
    rows: Sequence[EncodedRow],
    settings: LoopSettings,
    end_id: int,
    folder: Path,
    whitening: Whitening = NONE,
) -> Findings:
    """Run every check and return its numbers by name; nothing of the model has changed afterwards.

    `end_id` ends an assistant's turn; `folder` takes a checkpoint for a moment.

    Raises:
        TrainError: a check failed.
    """
    findings = {"labels": check_labels(rows, end_id), "order": check_order(rows, settings)}
    trial = Trial(model, engine, settings, short_rows(rows), first_trained_layer(model), whitening)
    # Comparisons stay near the untrained model: in one that one row has overfit, its modules' gradient in bf16 was seen
    # 122 % off, the engine's 13 %, and their losses of other rows 3.4 % apart.
    together: list[dict[str, Callable[[], dict[str, float]]]] = [
        {
            "same seed": lambda: check_seed(trial),
            "effect": lambda: check_effect(trial),
            "overfit": lambda: check_overfit(trial),
        },
        {"packed": lambda: check_packed(trial)},
        {"gradient": lambda: check_gradient(trial), "resume": lambda: check_resume(trial, folder)},
    ]
    for checks in together:
        with unchanged(model, engine):
            findings |= {name: check() for name, check in checks.items()}
    for name, numbers in findings.items():
        logger.info(
            "preflight %s: %s", name, ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        )
    return findings


def check_labels(rows: Sequence[EncodedRow], end_id: int) -> dict[str, float]:
    """Check that every row has tokens with loss and that the one that ends the turn is among them."""
    empty = sum(num_labels(row) == 0 for row in rows)
    if empty:
        raise TrainError(
            f"{empty} of {len(rows)} training rows have no token with loss: all labels are {IGNORED}, so nothing "
            "would be learned from them; check the base's chat template, or name another base"
        )
    endless = sum(row.labels[-1] != end_id for row in rows)
    if endless:
        raise TrainError(
            f"{endless} of {len(rows)} training rows do not train the end of turn (token {end_id}): the model would "
            "never stop; check that padding is not masked by the same token, or name another base"
        )
    labels, tokens = sum(map(num_labels, rows)), sum(len(row.ids) for row in rows)
    return {"rows": len(rows), "share_with_loss": labels / tokens}


def check_order(rows: Sequence[EncodedRow], settings: LoopSettings) -> dict[str, float]:
    """Check that the first epochs' batches are the same when they are made again, and that none has a row twice.

    That another process makes the same ones is checked where a run is resumed.
    """
    made = [
        [epoch_batches(rows, epoch, settings.seed, settings.batch_size) for epoch in range(ORDERED_EPOCHS)]
        for _ in range(2)
    ]
    if made[0] != made[1]:
        raise TrainError(
            f"Seed {settings.seed} gave two orders of the same {len(rows)} rows: a run could be neither repeated nor "
            "resumed; please report this"
        )
    for epoch, batches in enumerate(made[0], 1):
        numbers = [number for batch in batches for number in batch]
        if len(set(numbers)) < len(numbers):
            raise TrainError(
                f"Epoch {epoch} trains on {len(numbers) - len(set(numbers))} of its {len(numbers)} rows twice: please "
                "report this"
            )
    return {"rows": len(numbers), "batches": len(batches)}


def check_seed(trial: Trial) -> dict[str, float]:
    """Check that the same seed gives the same loss twice, dropout included."""
    losses = []
    trial.model.train()
    for _ in range(2):
        attach.seed_everything(trial.settings.seed)
        losses.append(trial.loss())
    if not math.isfinite(losses[0]):
        raise TrainError(
            f"The loss of {len(trial.rows)} rows is {losses[0]} before the first step: the base's weights are damaged "
            "or overflow; delete the base and run again, or set train.precision to float32"
        )
    if not abs(losses[0] - losses[1]) <= SAME * abs(losses[0]):
        raise TrainError(
            f"Seed {trial.settings.seed} gave the losses {losses[0]!r} and {losses[1]!r} on the same rows: a run "
            "could be neither repeated nor resumed; set train.dropout to 0, or train.device to cpu"
        )
    return {"loss": losses[0]}


def check_effect(trial: Trial) -> dict[str, float]:
    """Check that a step changes what the model itself says, not only what the engine computes."""
    before, optimizer, moved = trial.logits(), trial.optimizer(), 0.0
    for _ in range(EFFECT_STEPS):
        try:
            trial.step(optimizer, trial.rows)
        except RuntimeError as error:
            if NO_GRADIENT in str(error):
                break
            raise
        moved = float((trial.logits() - before).abs().max())
        if moved:
            break
    if not moved > 0:
        raise TrainError(
            f"Steps on the adapter moved the model's logits by {moved!r}: the adapter is not applied, or has no "
            "gradient; check train.target_modules and train.first_layer, or name another base"
        )
    return {"moved_logits": moved}


def check_overfit(trial: Trial) -> dict[str, float]:
    """Check that a few steps on one row lower its loss, as strongly as the adapter's gradient lets expect."""
    row, optimizer = trial.rows[-1], trial.optimizer()
    trial.accumulate([row], 1)
    # AdamW's first step moves every number by the learning rate, against its gradient.
    promised = trial.rate * float(trial.take_gradient().abs().sum())
    losses = [trial.step(optimizer, [row]) for _ in range(OVERFIT_STEPS)]
    first, lowest = losses[0], min(losses)
    expected = min(LEARNED * first, PROMISED * promised)
    if not (first - lowest >= expected > 0 or lowest < KNOWN):
        raise TrainError(
            f"{OVERFIT_STEPS} steps on one row took its loss from {first:.4f} to {lowest:.4f} nats a token at best, "
            f"and its gradient lets expect {expected:.4f} less: the adapter does not learn; raise train.alpha, or set "
            "train.precision to float32"
        )
    return {"first_loss": first, "lowest_loss": lowest, "expected_gain": expected}


def check_packed(trial: Trial) -> dict[str, float]:
    """Check that the engine's loss of rows together is the model's own, a row at a time and without padding.

    With frozen layers below, it has to be so whether these are computed in the same pass or apart. A step comes before
    it: where B is still zero, no adapter can be missed.
    """
    trial.step(trial.optimizer(), trial.rows)
    trial.model.eval()
    trial.engine.refresh()
    allowed = ROUNDED_LOSS_TOLERANCE if _rounds(trial) else LOSS_TOLERANCE[trial.settings.dtype]
    if _is_eight_bit(trial):
        allowed = max(allowed, EIGHT_BIT_LOSS_TOLERANCE)
    packed, plain = {"together": trial.loss(apart=False)}, _plainly(trial, Trial.plain_loss)
    if trial.first_layer:
        packed[f"together, with what lies below layer {trial.first_layer} computed before,"] = trial.loss()
    trial.model.train()
    for how, loss in packed.items():
        own = min(plain, key=lambda value: abs(loss - value))
        difference = abs(loss - own) / max(abs(own), KNOWN)
        if not difference <= allowed:
            raise TrainError(
                f"The loss of {len(trial.rows)} rows {how} is {loss:.5f} nats a token and {own:.5f} when the model "
                f"takes them one by one, {difference:.2%} apart: rows see each other, or the adapter is left out; "
                "please report this with the base's name, and set train.precision to float32 to see whether it is "
                "rounding"
            )
    return {"packed_loss": loss, "plain_loss": own}


def check_gradient(trial: Trial) -> dict[str, float]:
    """Check that a batch's gradient is the sum of its parts', and in size and direction the model's own.

    A step comes before it: where B is still zero, A has no gradient.
    """
    trial.step(trial.optimizer(), trial.rows)
    trial.model.eval()
    gradients = []
    for micro_batch in (len(trial.rows), 1):
        trial.accumulate(trial.rows, micro_batch)
        gradients.append(trial.take_gradient())
    whole, parts = gradients
    own = _plainly(trial, Trial.take_plain_gradient)
    by_split, by_engine = _difference(whole, parts), min(_difference(whole, one) for one in own)
    trial.model.train()
    allowed = EIGHT_BIT_TOLERANCE if _is_eight_bit(trial) else GRADIENT_TOLERANCE[trial.settings.dtype]
    if not by_split <= allowed:
        raise TrainError(
            f"The gradient of {len(trial.rows)} rows at once and one by one differ by {by_split:.2%}, so that "
            "train.micro_batch would change what is learned: please report this with the base's name"
        )
    if not by_engine <= (ROUNDED_TOLERANCE if _rounds(trial) else ENGINE_TOLERANCE * allowed):
        raise TrainError(
            f"The gradient of {len(trial.rows)} rows differs by {by_engine:.2%} from what the model's own modules "
            "give: another loss would be trained on; please report this with the base's name"
        )
    return {"split_difference": by_split, "engine_difference": by_engine}


def _is_eight_bit(trial: Trial) -> bool:
    return bool(getattr(trial.model.get_base_model(), "is_loaded_in_8bit", False))


def _rounds(trial: Trial) -> bool:
    """Tell whether the model's own modules can only compute in a dtype that is further off than the engine."""
    return trial.settings.dtype == torch.bfloat16 and not trial.fits_in_float32


def _plainly(trial: Trial, compute: Callable[[Trial], T]) -> list[T]:
    """Return what the model's own modules give: as the run computes, and in float32 where the weights fit so.

    The engine may round as they do, or less.
    """
    found = [compute(trial)]
    if trial.settings.dtype != torch.float32 and trial.fits_in_float32:
        with trial.in_float32() as exact:
            found.append(compute(exact))
    return found


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(1e-12))


def check_resume(trial: Trial, folder: Path) -> dict[str, float]:
    """Check that steps after a checkpoint is loaded give the losses that they gave before."""
    optimizer = trial.optimizer()
    trial.step(optimizer, trial.rows)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preflight-", dir=folder) as name:
        checkpoint.save(Path(name), trial.model, optimizer, Progress())
        losses = [trial.step(optimizer, trial.rows) for _ in range(2)]
        optimizer = trial.optimizer()  # the first one's moments are gone before this has any
        found = checkpoint.load_newest(Path(name), trial.model, optimizer)
        again = [trial.step(optimizer, trial.rows) for _ in range(2)]
    difference = max(abs(one - two) / abs(one) for one, two in zip(losses, again, strict=True))
    if found is None or not difference <= SAME:
        raise TrainError(
            f"After a checkpoint was loaded the next losses were {again} instead of {losses}: a resumed run would be "
            "another one; check the disk, and please report this if it is sound"
        )
    return {"next_loss": losses[-1], "difference": difference}
