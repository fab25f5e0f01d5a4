"""Train: a LoRA adapter on the base, from the dataset's conversations. `factory.lora` computes."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from factory import hardware, store
from factory.errors import TrainError
from factory.progress import Progress
from factory.rows import Example, Question, read_rows

logger = logging.getLogger(__name__)
CODE_VERSION = 2
CHECKPOINTS = "checkpoints"
MIN_FREE_DISK_BYTES = 512 << 20


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
    at once. `precision` is the dtype of the frozen weights (`auto`: bf16 where the device is fast at it, else
    fp16 on a GPU and fp32 on a CPU); `quantization` loads the base in 4 bits (`nf4`) or 8 (`int8`).
    `optimizer` is AdamW as in torch, or bitsandbytes' with 8-bit moments that can leave a full GPU.

    `checkpointing` computes activations twice to save memory; `compile` lets torch compile the layers, which pays in
    runs of many thousand steps on a GPU.
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
    quantization: Literal["none", "nf4", "int8"] = "none"
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    checkpointing: bool = Field(default=False, exclude=True)
    compile: bool = Field(default=False, exclude=True)
    micro_batch: int = Field(default=16, ge=1, exclude=True)
    checkpoint_seconds: float = Field(default=30.0, gt=0, exclude=True)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", exclude=True)


def train(
    config: TrainConfig, *, dataset: Path, base: Path, base_name: str, seed: int, system: str, work: Path
) -> dict[str, Any]:
    """Write a PEFT adapter folder with its loss and recall curves; return counts.

    A killed run goes on at the exact step from the checkpoints in `work`. Of several processes all have to call this,
    and only the main one writes.

    Raises:
        TrainError: there is nothing to train on, the disk is too small, or the loss is not finite.
    """
    from factory.lora import attach, batches, distributed, recall
    from factory.lora.loop import Loop, LoopSettings

    rows = list(read_rows(dataset / "train.jsonl", Example))
    questions = list(read_rows(dataset / "valid.jsonl", Question))
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
    sharded = distributed.is_sharded()
    if sharded and config.quantization != "none":
        raise TrainError(
            f"train.quantization={config.quantization!r} cannot be spread over processes: leave --use_fsdp out, or "
            "set it to none"
        )
    model = attach.load_model(base, dtype, "cpu" if sharded else device, config.quantization)
    first_layer = _first_layer(config, model.config.get_text_config().num_hidden_layers)
    model = attach.new_adapter(
        model,
        rank=config.rank,
        alpha=config.alpha or 2.0 * config.rank,
        dropout=config.dropout,
        targets=config.target_modules,
        first_layer=first_layer,
    )
    if sharded:
        distributed.shard(model, device)
    if not distributed.is_main():
        attach.seed_everything(seed + distributed.rank())  # dropout of its own
    measure = recall.Recall(model, tokenizer, questions, system, device)
    settings = LoopSettings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        micro_batch=config.micro_batch,
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
        optimizer=config.optimizer,
        checkpointing=config.checkpointing,
        compiled=config.compile,
    )
    with Progress("train", shown=distributed.is_main()) as bar:
        loop = Loop(model, first_layer, encoded, settings, work / CHECKPOINTS, measure, bar.training_step)
        progress = loop.run()
    if distributed.is_main():
        attach.save_adapter(model, work, base_name)
        _write_curve(work / "loss.jsonl", progress.history)
        _write_curve(work / "recall.jsonl", progress.recall)
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


def _first_layer(config: TrainConfig, num_layers: int) -> int:
    chosen = config.first_layer
    layer = round(chosen * num_layers) if 0 < chosen < 1 else int(chosen)
    if layer >= num_layers:
        raise TrainError(
            f"train.first_layer={chosen} leaves none of the base's {num_layers} layers: lower it"
        )
    return layer


def _write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    store.write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
