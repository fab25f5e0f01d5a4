"""Train: a LoRA adapter on the base, from the dataset's conversations. `factory.lora` computes."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from factory import hardware, store
from factory.chat.template import end_of_turn_id
from factory.errors import TrainError, UsageError
from factory.facts import replay
from factory.facts.feedback import FORM as CORRECTED
from factory.lora.config import TrainConfig, choose_epochs, choose_rank  # noqa: TID253  (it imports no torch)
from factory.progress import Progress
from factory.rows import Example, Fact, Question, read_rows

if TYPE_CHECKING:
    from factory.lora.batches import EncodedRow
    from factory.lora.checkpoint import Progress as Steps
    from factory.lora.engine import Engine
    from factory.lora.fit import Choice
    from factory.lora.memory import Load, Setup
    from factory.lora.objectives import Distillation
    from factory.lora.preferences import Pairs
    from factory.lora.settings import LoopSettings

logger = logging.getLogger(__name__)
CODE_VERSION = 7
CHECKPOINTS = "checkpoints"
PREFERENCES = "preferences"
MIN_FREE_DISK_BYTES = 512 << 20
GIB = 1 << 30
GENERAL_QUESTIONS, GENERAL_TOKENS = 128, 256  # a block that is rehearsed, and a row's most tokens
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
DPO_RATE = 0.05  # of the learning rate; Zephyr's recipes take a fortieth of the SFT's, Tülu 3's a tenth


def adapter_folder(path: Path) -> Path:
    """Return where the adapter of `train.continue_from` lies: the folder itself, or a bundle's part.

    Raises:
        UsageError: there is none.
    """
    for folder in (path, path / "adapter"):
        if all((folder / name).is_file() for name in ADAPTER_FILES):
            return folder
    raise UsageError(
        f"{str(path)!r} holds no adapter: check train.continue_from in the recipe, which names an adapter folder or "
        "a bundle"
    )


def fingerprint(path: Path) -> str:
    """Return a hash of the adapter that training goes on from.

    Raises:
        UsageError: there is none.
    """
    folder = adapter_folder(path)
    return store.hash_json({name: store.hash_file(folder / name) for name in ADAPTER_FILES})


def train(
    config: TrainConfig, *, dataset: Path, base: Path, base_name: str, seed: int, system: str, work: Path
) -> dict[str, Any]:
    """Write a PEFT adapter folder with its loss and recall curves and the loss by document; return counts.

    A killed run goes on at the exact step from the checkpoints in `work`. A new one is tried out first, in seconds.
    Of several processes all have to call this, and only the main one writes.

    Raises:
        TrainError: there is nothing to train on, the disk is too small, a check before the first step failed, the
            loss is not finite, or not even one row fits into memory.
    """
    from factory.lora import adapter, attach, batches, distributed, documents, fit, preflight, recall
    from factory.lora.curves import Curves, following
    from factory.lora.loop import Loop
    from factory.lora.memory import load_of
    from factory.lora.opening import open_model
    from factory.lora.settings import LoopSettings
    from factory.lora.setup import setup_of

    rows = list(read_rows(dataset / "train.jsonl", Example))
    questions = list(read_rows(dataset / "valid.jsonl", Question))
    _refuse_hopeless(config, rows, work)
    config = choose_rank(config, len({fact for row in rows for fact in row.facts}))
    device = attach.pick_device() if config.device == "auto" else config.device
    dtype = attach.pick_dtype(config.precision, device)
    attach.seed_everything(seed)
    tokenizer = attach.load_tokenizer(base)
    encoded = batches.limit_wordings(batches.encode(tokenizer, rows, config.max_tokens), config.wordings)
    encoded = [  # what people wrote is in no document
        replace(row, document="") if row.document.startswith(f"{CORRECTED}:") else row for row in encoded
    ]
    if not encoded:
        raise TrainError(
            f"All {len(rows)} rows are longer than train.max_tokens={config.max_tokens}: raise it"
        )
    epochs = choose_epochs(config, _tokens_an_epoch(encoded, seed))
    pairs = _read_pairs(config.preferences, dataset, tokenizer, system, config.max_tokens)
    available = fit.available_bytes(device)
    looks = (config.whiten or config.retain) and distributed.is_main()
    general = _general_rows(base, tokenizer, system) if looks else []
    continued = adapter_folder(config.continue_from) if config.continue_from else None
    opened = open_model(config, base, base_name, encoded, device, dtype, general, continued)
    model, whitening = opened.model, opened.whitening
    setup = setup_of(model, config, device, dtype)
    choice = _plan(setup, load_of(encoded), config, available)
    paired = _plan(setup, load_of(pairs.chosen, pairs.rejected), config, available) if pairs else choice
    first_layer = setup.first_layer
    if not distributed.is_main():
        attach.seed_everything(seed + distributed.rank())  # dropout of its own
    measure = recall.Recall(model, tokenizer, questions, system, device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    settings = LoopSettings.of(
        config, epochs, choice.micro_batch, seed=seed, pad_id=pad, device=device, dtype=dtype
    )
    objective = _distillation(config, epochs, tokenizer, rows, encoded, dataset, seed, work)
    folder, end_id = work / CHECKPOINTS, end_of_turn_id(tokenizer)
    with Curves(work) as curves:
        with Progress("train", shown=distributed.is_main()) as bar:

            def report(row: dict[str, float]) -> None:
                curves.add(row)
                bar.training_step(row)

            tally = documents.Tally(encoded, work)
            loop = Loop(
                model,
                first_layer,
                encoded,
                settings,
                folder,
                measure,
                report,
                objective,
                tally=tally,
                whitening=whitening,
                penalty=opened.penalty,
            )
            checks = partial(preflight.run, model, loop.engine, encoded, settings, end_id, folder, whitening)
            progress = loop.run(checks)
        engine = loop.engine
        del loop  # its optimizer, and what lies below the first layer
        counts = {"distilled_tokens": objective.num_spoken} if objective else {}
        history, recalls = list(progress.history), list(progress.recall)
        if pairs:
            settings = replace(settings, micro_batch=paired.micro_batch)
            follow = partial(following, last=progress.history[-1], stage=PREFERENCES)
            told, preferred = _prefer(
                config, model, engine, settings, pairs, folder, measure, lambda row: curves.add(follow(row))
            )
            counts |= told
            history += map(follow, preferred.history)
            recalls += map(follow, preferred.recall)
        if distributed.is_main():
            curves.finish(history, recalls)
    model.eval()
    last = [encoded[number] for number in batches.epoch_rows(encoded, progress.epoch - 1, seed)]
    losses = documents.document_losses(engine, last, progress.micro_batch)
    if distributed.is_main():
        documents.write(work, losses)
        adapter.save_adapter(model, work, base_name, opened.begun)
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "rows": len(encoded),
        "rows_left_out": len(rows) - len(encoded),
        "epochs": progress.epoch,
        "steps": progress.step,
        "rows_seen": progress.step * config.batch_size,
        "first_layer": first_layer,
        "trainable_parameters": setup.trained,
        "device": device,
        "precision": str(dtype).removeprefix("torch."),
        "final_loss": progress.history[-1]["loss"],
        "learning_rate": config.learning_rate,
        "best_recall": progress.best_recall,
        "best_step": progress.best_step,
        "training_seconds": round(progress.seconds, 1),
        "tokens_per_second": round(fmean(row["tokens_per_second"] for row in progress.history), 1),
        "whitened": len(whitening),
        "retained": len(opened.retention),
        "divergence": round(opened.penalty.nats(), 4),
        "mfu": round(fmean(row["mfu"] for row in progress.history), 4),
        "micro_batch": progress.micro_batch,
        "micro_batch_halved": progress.halvings,
        "preflight": progress.preflight,
        "predicted_memory_bytes": round(max(choice.parts.total, paired.parts.total)),
        **fit.device_peak(device),
        **counts,
        **(adapter.shape(model) if config.continue_from else {"rank": config.rank}),
    }


def _tokens_an_epoch(rows: list["EncodedRow"], seed: int) -> float:
    """Return the tokens that a mean epoch takes; those above several questions count once."""
    from factory.lora import batches

    return fmean(batches.num_tokens(rows, batches.epoch_rows(rows, epoch, seed)) for epoch in range(8))


def _general_rows(base: Path, tokenizer: Any, system: str) -> list["EncodedRow"]:
    """Return bundled general questions with the base's own answers; none where it says nothing whole."""
    from factory.lora import batches, rehearsal

    pairs = rehearsal.rehearse(base, replay.questions()[:GENERAL_QUESTIONS], system)
    return batches.encode(tokenizer, replay.examples(pairs, GENERAL_QUESTIONS, system), GENERAL_TOKENS)


def _read_pairs(
    path: Path | None, dataset: Path, tokenizer: Any, system: str, max_tokens: int
) -> "Pairs | None":
    """Return the pairs of answers to train on afterwards, if there is a file; none may spoil the test."""
    from factory.lora import preferences

    if path is None:
        return None
    tested = [
        question
        for name in ("valid", "test", "calibration")
        for question in read_rows(dataset / f"{name}.jsonl", Question)
    ]
    return preferences.encode_pairs(tokenizer, preferences.read_preferences(path, tested), system, max_tokens)


def _distillation(
    config: TrainConfig,
    epochs: int,
    tokenizer: Any,
    rows: list[Example],
    encoded: list["EncodedRow"],
    dataset: Path,
    seed: int,
    work: Path,
) -> "Distillation | None":
    """Return the objective that mixes in what the base says, or None where it is not asked.

    It is asked about its own answers to general questions, and about others with the evidence above the question.
    """
    from factory.lora import batches, distill, objectives

    general = {row.id for row in rows if row.form == replay.FORM}
    own = {number for number, row in enumerate(encoded) if row.example in general}
    if not own and not config.distill:
        return None
    used = {number for epoch in range(epochs) for number in batches.epoch_rows(encoded, epoch, seed)}
    teachers: list[EncodedRow | None] = [None] * len(encoded)
    if config.distill:
        facts = {fact.id: fact for fact in read_rows(dataset / "facts.jsonl", Fact)}
        teachers = distill.teacher_rows(tokenizer, encoded, rows, facts)
    asked = [
        (row if number in own else teacher) if number in used else None
        for number, (row, teacher) in enumerate(zip(encoded, teachers, strict=True))
    ]
    return objectives.Distillation(config.distill, asked, work / CHECKPOINTS / "teacher.pt", own)


def _prefer(
    config: TrainConfig,
    model: Any,
    engine: "Engine",
    settings: "LoopSettings",
    pairs: "Pairs",
    checkpoints: Path,
    measure: Callable[[], float],
    report: Callable[[dict[str, float]], None],
) -> tuple[dict[str, Any], "Steps"]:
    """Train a trained model on pairs of answers and return counts and what the steps were."""
    from factory.lora import distributed, objectives
    from factory.lora.loop import Loop

    objective = objectives.Preference(pairs.chosen, pairs.rejected, config.dpo_beta)
    changed = replace(
        settings,
        epochs=config.dpo_epochs,
        # A pair is a forward pass of its own; processes that share weights have to take as many.
        micro_batch=1 if distributed.is_sharded() else settings.micro_batch,
        learning_rate=DPO_RATE * config.learning_rate,
        recall_epochs=frozenset(),
        patience=None,
    )
    with Progress(PREFERENCES, shown=distributed.is_main()) as bar:

        def report_both(row: dict[str, float]) -> None:
            report(row)
            bar.training_step(row)

        folder = checkpoints / PREFERENCES
        loop = Loop(model, 0, pairs.chosen, changed, folder, measure, report_both, objective, engine)
        progress = loop.run()
    model.eval()
    gains = objective.gains(loop.engine)
    counts = {
        "preferences": len(pairs.chosen),
        "preferences_left_out": pairs.num_left_out,
        "preferences_learned": sum(gain > 0 for gain in gains),
        "preferences_gain": round(sum(gains) / len(gains), 4),
        "preferences_loss": progress.history[-1]["loss"],
        "preferences_recall": progress.best_recall,
    }
    return counts, progress


def _refuse_hopeless(config: TrainConfig, rows: list[Example], work: Path) -> None:
    from factory.lora import distributed

    if distributed.is_sharded() and config.quantization != "none":
        raise TrainError(
            f"train.quantization={config.quantization!r} cannot be spread over processes: leave --use_fsdp out, or "
            "set it to none"
        )
    if not rows:
        raise TrainError(
            "The dataset has no training rows: look at its README.md for what was dropped and why"
        )
    free = hardware.free_disk_bytes(work)
    if free < MIN_FREE_DISK_BYTES:
        raise TrainError(
            f"Only {free >> 20} MiB are free for checkpoints: free {MIN_FREE_DISK_BYTES >> 20} MiB"
        )


def _plan(setup: "Setup", load: "Load", config: TrainConfig, available: int) -> "Choice":
    """Return how many rows to compute at once, the same in all processes, and what that needs."""
    from factory.lora import distributed, fit

    choice = fit.plan_training(setup, load, config.batch_size, available, config.micro_batch)
    if not choice.fits:
        logger.warning(
            "training does not fit: %d row(s) at once need about %.1f GiB, and %.1f GiB are available",
            choice.micro_batch,
            choice.parts.total / GIB,
            available / GIB,
        )
    found: Choice = distributed.from_main(choice)
    return found
