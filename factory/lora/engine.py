"""How training computes a batch: in fused layers where model and device allow it, else as transformers does.

Both give the summed loss of some rows and, for layers under the first adapter, hidden states worth keeping.
Knows rows and losses; not steps or schedules.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from factory.lora.batches import EncodedRow, collate
from factory.lora.fused import FusedModel, is_supported
from factory.lora.layout import lay_out
from factory.lora.split import SplitModel
from factory.lora.step import answer_loss, autocast, loss_of


class Engine(Protocol):
    """Computes losses of a model whose layers before the first adapter are frozen."""

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        ...

    def loss(self, rows: Sequence[EncodedRow], below: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Return the summed cross-entropy, in nats, of the rows' labels; `below` is what `lower` returned."""
        ...

    def refresh(self) -> None:
        """Take the adapters as they are now; to be called whenever they have changed."""
        ...


class PlainEngine:
    """Padded batches through the model's own modules, computed in a low precision where one is asked for."""

    def __init__(self, model: Any, first_layer: int, dtype: torch.dtype, device: str, pad_id: int) -> None:
        """Cut the model; nothing is copied."""
        self._split = SplitModel(model, first_layer)
        self._dtype, self._device, self._pad_id = dtype, device, pad_id

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        batch = collate(rows, self._pad_id).to(self._device)
        with autocast(self._device, self._dtype):
            hidden = self._split.lower(batch.ids, batch.mask)
        return [values[: len(row.ids)].clone() for row, values in zip(rows, hidden, strict=True)]

    def loss(self, rows: Sequence[EncodedRow], below: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Return the summed cross-entropy, in nats, of the rows' labels."""
        batch = collate(rows, self._pad_id).to(self._device)
        hidden = torch.nn.utils.rnn.pad_sequence(
            list(below if below is not None else self.lower(rows)), batch_first=True
        )
        with autocast(self._device, self._dtype):
            return loss_of(self._split, hidden, batch)

    def refresh(self) -> None:
        """Do nothing: the model's own modules hold the adapters."""


class FusedEngine:
    """Rows without padding through fused layers, behind one copy of the tokens that all of them begin with."""

    def __init__(self, model: Any, first_layer: int, dtype: torch.dtype) -> None:
        """Copy the frozen weights into the layers' own form."""
        self._model = FusedModel(model, first_layer, dtype)

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        layout = lay_out(rows)
        return [values.to(self._model.dtype) for values in layout.apart(self._model.lower(layout))]

    def loss(self, rows: Sequence[EncodedRow], below: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Return the summed cross-entropy, in nats, of the rows' labels."""
        layout = lay_out(rows)
        hidden = self._model.lower(layout) if below is None else layout.join(below).float()
        return answer_loss(self._model.upper(hidden, layout), self._model.head, layout.targets)

    def refresh(self) -> None:
        """Bring the adapters, as they are now, into the fused layers."""
        self._model.refresh()


def open_engine(model: Any, first_layer: int, dtype: torch.dtype, device: str, pad_id: int) -> Engine:
    """Return the fast engine on a CPU for the models it computes, else the one for all models."""
    if device == "cpu" and is_supported(model):
        return FusedEngine(model, first_layer, dtype)
    return PlainEngine(model, first_layer, dtype, device, pad_id)
