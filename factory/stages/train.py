"""Train: a LoRA adapter on the base, from the dataset's conversations. `factory.lora` computes."""

import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory import hardware, store
from factory.chat.template import end_of_turn_id
from factory.errors import TrainError, UsageError
from factory.progress import Progress
from factory.rows import Example, Fact, Question, read_rows

if TYPE_CHECKING:
    from factory.lora.batches import EncodedRow
    from factory.lora.loop import LoopSettings
    from factory.lora.objectives import Distillation
    from factory.lora.preferences import Pairs

if TYPE_CHECKING:
    from factory.lora.adapter import AdapterSettings

logger = logging.getLogger(__name__)
CODE_VERSION = 3
CHECKPOINTS = "checkpoints"
MIN_FREE_DISK_BYTES = 512 << 20
GIB = 1 << 30
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
RSLORA_ALPHA = (
    16.0  # as in its paper, arXiv 2312.03732: at a scale of alpha / √rank, twice the rank is too much
)
DPO_RATE = 0.05  # of the learning rate; Zephyr's recipes take a fortieth of the SFT's, Tülu 3's a tenth


class TrainConfig(BaseModel):
    """How the adapter is shaped and trained.

    `rank`, `alpha` (twice the rank if not given), `dropout` and `target_modules` are LoRA's, as in peft.
    `learning_rate` rises over the first `warmup` share of the steps, then falls along a cosine; `weight_decay`
    and `max_gradient_norm` are AdamW's and the clipping's. Training takes `epochs`; rows longer than `max_tokens`
    are left out.
    Recall is measured each `recall_every` epochs, and a checkpoint kept each `checkpoint_seconds`.

    An epoch takes one wording of every fact and the next epoch another, from at most `wordings` each.
    `first_layer` is the first layer with an adapter: a whole number, or a share of the layers below 1; what
    lies below is computed once a row. `batch_size` is rows per optimizer step, `micro_batch` rows in memory
    at once (`auto`: as many as fit). `precision` is the dtype of the frozen weights (`auto`: bf16 where the
    device is fast at it, else fp16 on a GPU and fp32 on a CPU); `quantization: nf4` loads the base in 4 bits.

    `variant` is `lora`, `rslora` (scaled by alpha / √rank, with an alpha of 16 if not given; saved as plain LoRA) or
    `dora` (magnitudes trained, too; its bundle has merged files, but no adapter as GGUF). `init` is how A and B
    begin: `pissa` with the weights' principal part, `loftq` with what `nf4` lost of them, `eva` with the inputs'
    main directions on training rows. `lora_plus` is how many times as fast B learns as A (16 is usual).
    `layers` lists the layers with an adapter, instead of `first_layer`. `rank_pattern` and `alpha_pattern` give
    other numbers to modules whose name's end matches: `{q_proj: 64, "layers.[0-3].mlp.*": 8}`.
    `target_parameters` are weights without a module of their own, such as `mlp.experts.down_proj`; GGUF files
    of such bases are not made.
    `continue_from` is an adapter folder or bundle of the same base whose adapter is trained on, as it is shaped: the
    keys of shape and variant do not count then.

    `distill` is the share of context distillation in the loss of an answer's token: the divergence from what the
    untrained base says with the evidence in its prompt, where it says the same. `preferences` is a file of
    `{"prompt", "chosen", "rejected"}` a line, as `factory learn-from-feedback` writes it, to train on afterwards:
    `dpo_epochs` of direct preference optimization whose `dpo_beta` holds the adapter near what it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=32, ge=1, le=1024)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    first_layer: float = Field(default=0.0, ge=0.0)
    learning_rate: float = Field(default=1e-3, gt=0, lt=1)
    warmup: float = Field(default=0.1, ge=0.0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0.0, lt=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    epochs: int = Field(default=9, ge=1, le=1000)
    wordings: int = Field(default=12, ge=1, le=100)
    batch_size: int = Field(default=8, ge=1)
    max_tokens: int = Field(default=256, ge=16)
    recall_every: int = Field(default=4, ge=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "nf4"] = "none"
    variant: Literal["lora", "rslora", "dora"] = "lora"
    init: Literal["default", "pissa", "loftq", "eva"] = "default"
    lora_plus: float | None = Field(default=None, gt=0)
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = {}
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = {}
    target_parameters: tuple[str, ...] = ()
    continue_from: Path | None = Field(default=None, exclude=True)
    distill: float = Field(default=0.0, ge=0.0, le=1.0)
    preferences: Path | None = Field(default=None, exclude=True)  # its content counts
    dpo_beta: float = Field(default=0.1, gt=0, le=10)
    dpo_epochs: int = Field(default=1, ge=1, le=100)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", exclude=True)
    checkpoint_seconds: float = Field(default=30.0, gt=0, exclude=True)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", exclude=True)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        init, dora, experts = self.init, self.variant == "dora", bool(self.target_parameters)
        conflicts = [
            (
                init == "loftq" and self.quantization != "nf4",
                "init loftq makes up for what 4 bits lose: set quantization to nf4",
            ),
            (
                init == "pissa" and self.quantization == "nf4",
                "init pissa takes whole weights apart: set quantization to none, or init to loftq",
            ),
            (init == "loftq" and dora, "init loftq and variant dora exclude each other: leave one out"),
            (self.layers and self.first_layer, "layers and first_layer both choose layers: leave one out"),
            (self.layers == (), "layers is empty: name a layer, or leave it out"),
            (experts and dora, "target_parameters have no variant dora: set it to lora or rslora"),
            (experts and init != "default", "target_parameters begin as by default: leave init out"),
            (experts and self.dropout, "target_parameters have no dropout: set it to 0"),
            (
                self.continue_from and self.distill,
                "distill learns from the untrained base, which continue_from does not begin with: leave one out",
            ),
            (
                self.continue_from and init != "default",
                "continue_from brings its own A and B: leave init out",
            ),
        ]
        conflicts += [
            (not _is_regex(pattern), f"pattern {pattern!r} is no regular expression: correct it")
            for pattern in (*self.rank_pattern, *self.alpha_pattern)
        ]
        if faults := [sentence for is_so, sentence in conflicts if is_so]:
            raise ValueError("; ".join(faults))
        return self


def _is_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


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

    Raises:
        TrainError: there is nothing to train on, the disk is too small, a check before the first step failed, the
            loss is not finite, or not even one row fits into memory.
    """
    from factory.lora import adapter, attach, batches, documents, fit, preferences, preflight, recall
    from factory.lora.curves import Curves
    from factory.lora.loop import Loop, LoopSettings

    rows = list(read_rows(dataset / "train.jsonl", Example))
    questions = list(read_rows(dataset / "valid.jsonl", Question))
    preferred = []
    if config.preferences:
        tested = read_rows(dataset / "test.jsonl", Question)
        preferred = preferences.read_preferences(config.preferences, [*questions, *tested])
    _refuse_hopeless(rows, work)
    device = attach.pick_device() if config.device == "auto" else config.device
    dtype = attach.pick_dtype(config.precision, device)
    attach.seed_everything(seed)
    tokenizer = attach.load_tokenizer(base)
    encoded = batches.limit_wordings(batches.encode(tokenizer, rows, config.max_tokens), config.wordings)
    if not encoded:
        raise TrainError(
            f"All {len(rows)} rows are longer than train.max_tokens={config.max_tokens}: raise it"
        )
    choice = _plan(config, base, encoded, device, dtype)
    pairs = preferences.encode_pairs(tokenizer, preferred, system, config.max_tokens) if preferred else None
    model = attach.load_model(base, dtype, device, config.quantization)
    settings = _adapter_settings(config, model.config.get_text_config().num_hidden_layers)
    if config.continue_from:
        model = adapter.continue_adapter(model, adapter_folder(config.continue_from), base_name)
    else:
        model = adapter.new_adapter(model, settings, base=base, rows=encoded)
    begun = adapter.beginning(model, settings)
    first_layer = adapter.first_trained_layer(model)
    measure = recall.Recall(model, tokenizer, questions, system, device)
    loop_settings = LoopSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch=choice.micro_batch,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        recall_epochs=frozenset(range(config.recall_every, config.epochs, config.recall_every)),
        checkpoint_seconds=config.checkpoint_seconds,
        seed=seed,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        device=device,
        dtype=dtype,
        lora_plus=config.lora_plus,
    )
    objective = (
        _distillation(config, tokenizer, rows, encoded, dataset, seed, work) if config.distill else None
    )
    counts: dict[str, Any] = {}
    with Progress("train") as bar, Curves(work) as curves:

        def report(row: dict[str, float]) -> None:
            curves.add(row)
            if "loss" in row:
                bar.training_step(row)

        folder = work / CHECKPOINTS
        loop = Loop(model, first_layer, encoded, loop_settings, folder, measure, report, objective)
        end_id = end_of_turn_id(tokenizer)
        progress = loop.run(lambda: preflight.run(model, loop.engine, encoded, loop_settings, end_id, folder))
        curves.finish(progress.history, progress.recall)
    if objective:
        counts["distilled_tokens"] = objective.num_spoken
    if pairs:
        counts |= _prefer(config, model, pairs, loop_settings, work, measure)
    last_rows = [encoded[number] for number in batches.epoch_rows(encoded, config.epochs - 1, seed)]
    losses = documents.document_losses(loop.engine, last_rows, progress.micro_batch)
    _write_lines(work / "document_loss.jsonl", losses)
    adapter.save_adapter(model, work, base_name, begun)
    shutil.rmtree(work / CHECKPOINTS, ignore_errors=True)
    return {
        "rows": len(encoded),
        "rows_left_out": len(rows) - len(encoded),
        "steps": progress.step,
        "rows_seen": progress.step * config.batch_size,
        "first_layer": first_layer,
        "trainable_parameters": sum(value.numel() for value in model.parameters() if value.requires_grad),
        "device": device,
        "precision": str(dtype).removeprefix("torch."),
        "final_loss": progress.history[-1]["loss"],
        "best_recall": progress.best_recall,
        "best_step": progress.best_step,
        "training_seconds": round(progress.seconds, 1),
        "tokens_per_second": round(fmean(row["tokens_per_second"] for row in progress.history), 1),
        "mfu": round(fmean(row["mfu"] for row in progress.history), 4),
        "micro_batch": progress.micro_batch,
        "micro_batch_halved": progress.halvings,
        "preflight": progress.preflight,
        "predicted_memory_bytes": round(choice.parts.total),
        **fit.device_peak(device),
        **counts,
        **(adapter.shape(model) if config.continue_from else {}),
    }


def _distillation(
    config: TrainConfig,
    tokenizer: Any,
    rows: list[Example],
    encoded: list["EncodedRow"],
    dataset: Path,
    seed: int,
    work: Path,
) -> "Distillation":
    """Return the objective that mixes in what the base says with the evidence above the question."""
    from factory.lora import batches, distill, objectives
    from factory.tasks.retrieval import PROMPT

    facts = {fact.id: fact for fact in read_rows(dataset / "facts.jsonl", Fact)}
    used = {number for epoch in range(config.epochs) for number in batches.epoch_rows(encoded, epoch, seed)}
    teachers = distill.teacher_rows(tokenizer, encoded, rows, facts, PROMPT)
    asked = [teacher if number in used else None for number, teacher in enumerate(teachers)]
    return objectives.Distillation(config.distill, asked, work / CHECKPOINTS / "teacher.pt")


def _prefer(
    config: TrainConfig,
    model: Any,
    pairs: "Pairs",
    settings: "LoopSettings",
    work: Path,
    measure: Callable[[], float],
) -> dict[str, Any]:
    """Train the model on pairs of answers, after its own training, and return counts."""
    from factory.lora import objectives
    from factory.lora.loop import Loop

    objective = objectives.Preference(pairs.chosen, pairs.rejected, config.dpo_beta)
    changed = replace(
        settings,
        epochs=config.dpo_epochs,
        learning_rate=DPO_RATE * config.learning_rate,
        recall_epochs=frozenset(),
    )
    folder = work / CHECKPOINTS / "preferences"
    with Progress("preferences") as bar:
        loop = Loop(model, 0, pairs.chosen, changed, folder, measure, bar.training_step, objective)
        progress = loop.run()
    model.eval()
    gains = objective.gains(loop.engine)
    return {
        "preferences": len(pairs.chosen),
        "preferences_left_out": pairs.num_left_out,
        "preferences_learned": sum(gain > 0 for gain in gains),
        "preferences_gain": round(sum(gains) / len(gains), 4),
        "preferences_loss": progress.history[-1]["loss"],
        "preferences_recall": progress.best_recall,
    }


def _refuse_hopeless(rows: list[Example], work: Path) -> None:
    if not rows:
        raise TrainError(
            "The dataset has no training rows: look at its README.md for what was dropped and why"
        )
    free = hardware.free_disk_bytes(work)
    if free < MIN_FREE_DISK_BYTES:
        raise TrainError(
            f"Only {free >> 20} MiB are free for checkpoints: free {MIN_FREE_DISK_BYTES >> 20} MiB"
        )


def _plan(config: TrainConfig, base: Path, rows: Sequence[Any], device: str, dtype: Any) -> Any:
    """Return how many rows to compute at once, and what that needs."""
    from factory.lora import batches, fit, memory
    from factory.lora.shape import read_shape

    shape = read_shape(base)
    first_layer = first_adapted_layer(config, shape.layers)
    lengths = [len(row.ids) for row in rows]
    load = memory.Load(max(lengths), max(map(batches.num_labels, rows)), kept_tokens=sum(lengths))
    setup, available = (
        memory.setup_of(shape, config, first_layer, device, dtype),
        fit.available_bytes(device),
    )
    choice = fit.plan_training(setup, load, config.batch_size, available, config.micro_batch)
    if not choice.fits:
        logger.warning(
            "training does not fit: %d row(s) at once need about %.1f GiB, and %.1f GiB are available",
            choice.micro_batch,
            choice.parts.total / GIB,
            available / GIB,
        )
    return choice


def _adapter_settings(config: TrainConfig, num_layers: int) -> "AdapterSettings":
    from factory.lora.adapter import AdapterSettings

    alpha = config.alpha or (RSLORA_ALPHA if config.variant == "rslora" else 2.0 * config.rank)
    return AdapterSettings(
        rank=config.rank,
        alpha=alpha,
        targets=config.target_modules,
        dropout=config.dropout,
        layers=_layers(config, num_layers),
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        parameters=config.target_parameters,
        variant=config.variant,
        init=config.init,
    )


def first_adapted_layer(config: TrainConfig, num_layers: int) -> int:
    """Return the number of the first layer with a new adapter.

    Raises:
        TrainError: there is no such layer.
    """
    layers = _layers(config, num_layers)
    return layers[0] if layers else 0


def _layers(config: TrainConfig, num_layers: int) -> tuple[int, ...] | None:
    """Return the layers with an adapter, or None for all of them."""
    if config.layers is not None:
        if max(config.layers) >= num_layers:
            raise TrainError(
                f"train.layers names layer {max(config.layers)}, the base has 0 to {num_layers - 1}: leave it out"
            )
        return tuple(sorted(set(config.layers)))
    chosen = config.first_layer
    first = round(chosen * num_layers) if 0 < chosen < 1 else int(chosen)
    if first >= num_layers:
        raise TrainError(
            f"train.first_layer={chosen} leaves none of the base's {num_layers} layers: lower it"
        )
    return tuple(range(first, num_layers)) if first else None


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    store.write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
