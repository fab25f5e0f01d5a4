"""How long and how fast a run trains: its numbers, each step's learning rate, when to stop. Knows no weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch

from factory.lora.config import TrainConfig
from factory.lora.optimizer import Kind

LAST_RATE = 0.02  # of the highest learning rate, at the end


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    `batch_size` is rows per optimizer step; `micro_batch` rows per forward pass. The learning rate rises over
    the share `warmup` of all steps and falls along a cosine to a fiftieth; `lora_plus` times as fast for B, where it
    is given. Recall is measured after each epoch in `recall_epochs`; `patience` and `checkpointing` are as in the
    recipe.
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
    optimizer: Kind = "adamw"
    checkpointing: bool | Literal["offload"] = False
    compiled: bool = False
    patience: int | None = None

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        epochs: int,
        micro_batch: int,
        *,
        seed: int,
        pad_id: int,
        device: str,
        dtype: torch.dtype,
    ) -> Self:
        """Return what a recipe says of the loop, with what the dataset, the machine and the tokenizer add."""
        return cls(
            epochs=epochs,
            batch_size=config.batch_size,
            micro_batch=micro_batch,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            max_gradient_norm=config.max_gradient_norm,
            recall_epochs=frozenset(range(config.recall_every, epochs, config.recall_every)),
            checkpoint_seconds=config.checkpoint_seconds,
            seed=seed,
            pad_id=pad_id,
            device=device,
            dtype=dtype,
            lora_plus=config.lora_plus,
            optimizer=config.optimizer,
            checkpointing=config.checkpointing,
            compiled=config.compile,
            patience=config.patience,
        )


def learning_rate(settings: LoopSettings, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    rising = settings.warmup * num_steps
    if step < rising:
        return settings.learning_rate * min(1.0, (step + 1) / rising)
    passed = min(1.0, (step - rising) / max(1.0, num_steps - rising))
    return settings.learning_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * passed)))


def is_flat(settings: LoopSettings, measured: Sequence[Mapping[str, float]]) -> bool:
    """Tell whether recall, once it was above zero, has not risen for as many measurements as patience lasts."""
    recall, patience = [row["recall"] for row in measured], settings.patience
    if patience is None or not any(recall[:-patience]):
        return False
    return max(recall[-patience:]) <= max(recall[:-patience])
