"""A base with the adapter to train on it, and what was seen of it on general questions before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factory.lora import adapter, attach, distributed, retention, shortage, whitening
from factory.lora.batches import EncodedRow
from factory.lora.config import TrainConfig
from factory.lora.retention import Divergence, Retention
from factory.lora.whitening import Whitening


@dataclass(frozen=True)
class Opened:
    """A model with a trainable adapter; what that stood for when it began, and what its steps are by."""

    model: Any
    begun: dict[str, Any]
    whitening: Whitening
    retention: Retention
    retain: float

    @property
    def penalty(self) -> Divergence:
        """What holds the base's answers to general questions, beside the loss."""
        return Divergence(self.model, self.retention, self.retain)


def open_model(
    config: TrainConfig,
    base: Path,
    base_name: str,
    rows: Sequence[EncodedRow],
    device: str,
    dtype: torch.dtype,
    general: Sequence[EncodedRow] = (),
    continued: Path | None = None,
) -> Opened:
    """Return the base with a new adapter, or that of a folder.

    Args:
        config: the recipe's.
        base: the base's folder.
        base_name: its name, as adapters of it have it.
        rows: what is trained on.
        device: where it computes.
        dtype: of the frozen weights.
        general: the rows that steps are to change least; the main process alone needs them.
        continued: the folder of the adapter that is trained on.
    """
    sharded = distributed.is_sharded()
    looking = "cpu" if sharded else device
    model = attach.load_model(base, dtype, looking, config.quantization)
    settings = adapter.settings_of(config, model.config.get_text_config().num_hidden_layers)
    if continued:
        model = adapter.continue_adapter(model, continued, base_name)
    else:
        model = adapter.new_adapter(model, settings, base=base, rows=rows)
    begun, directions, kept = adapter.beginning(model, settings), whitening.NONE, retention.NONE
    general = distributed.from_main(general)
    if config.whiten:
        is_main = distributed.is_main()
        seen = whitening.look_at_inputs(model, general, looking, dtype) if is_main else whitening.NONE
        seen = distributed.from_main(seen)
        if config.init == "default" and not continued:
            whitening.begin_whitened(model, seen)
        directions = whitening.on_device(seen, device)
    model = distributed.shard(model, device) if sharded else model
    if config.retain:
        with shortage.refused("while general questions were looked at", "set train.retain to 0"):
            kept = retention.look_at_answers(model, general, device, dtype)  # in all: weights may be spread
        kept = retention.on_device(distributed.from_main(kept), device, dtype)
    return Opened(model, begun, directions, kept, config.retain)
