"""How training computes a batch: in fused layers where model and device allow it, else as transformers does.

Both give the summed loss of some rows and, for layers under the first adapter, hidden states worth keeping.
Knows rows and losses; not steps or schedules.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from factory.lora.batches import IGNORED, EncodedRow, collate
from factory.lora.fused import FusedModel, is_supported
from factory.lora.layout import lay_out
from factory.lora.losses import SoftTargets, losses_of_logits, token_losses, top_probs
from factory.lora.split import SplitModel
from factory.lora.step import LOSS_CHUNK, answer_loss, autocast, loss_of


class Engine(Protocol):
    """Computes losses of a model whose layers before the first adapter are frozen."""

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        ...

    def loss(self, rows: Sequence[EncodedRow], below: Sequence[torch.Tensor] | None) -> torch.Tensor:
        """Return the summed cross-entropy, in nats, of the rows' labels; `below` is what `lower` returned."""
        ...

    def token_losses(
        self,
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
        soft: SoftTargets | None = None,
    ) -> torch.Tensor:
        """Return the loss, in nats, of each of the rows' labels, row after row; `soft` targets have the same order."""
        ...

    def top_probs(self, rows: Sequence[EncodedRow], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids and probabilities of the likeliest tokens where the rows' labels stand: (labels, count)."""
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

    def token_losses(
        self,
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
        soft: SoftTargets | None = None,
    ) -> torch.Tensor:
        """Return the loss, in nats, of each of the rows' labels, row after row."""
        logits_MV, targets_M = self._logits(rows, below)
        return losses_of_logits(logits_MV, targets_M, soft and soft.to(logits_MV.device))

    @torch.no_grad()
    def top_probs(self, rows: Sequence[EncodedRow], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids and probabilities of the likeliest tokens where the rows' labels stand: (labels, count)."""
        return top_probs(self._logits(rows, None)[0], count)

    def _logits(
        self, rows: Sequence[EncodedRow], below: Sequence[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (M, V) before the rows' labels, and these (M,)."""
        batch = collate(rows, self._pad_id).to(self._device)
        hidden = torch.nn.utils.rnn.pad_sequence(
            list(below if below is not None else self.lower(rows)), batch_first=True
        )
        targets_BT = batch.labels[:, 1:]
        kept = targets_BT != IGNORED
        with autocast(self._device, self._dtype):
            last_BTD = self._split.upper(hidden, batch.mask)
            return self._split.head(last_BTD[:, :-1][kept]), targets_BT[kept]

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

    def token_losses(
        self,
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
        soft: SoftTargets | None = None,
    ) -> torch.Tensor:
        """Return the loss, in nats, of each of the rows' labels, row after row."""
        layout = lay_out(rows)
        hidden = self._model.lower(layout) if below is None else layout.join(below).float()
        last_MD = self._model.upper(hidden, layout)
        return token_losses(last_MD, self._model.head, layout.targets, soft and soft.to(last_MD.device))

    @torch.no_grad()
    def top_probs(self, rows: Sequence[EncodedRow], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids and probabilities of the likeliest tokens where the rows' labels stand: (labels, count)."""
        layout = lay_out(rows)
        last_MD = self._model.upper(self._model.lower(layout), layout)
        parts = [top_probs(part @ self._model.head.t(), count) for part in last_MD.split(LOSS_CHUNK)]
        return torch.cat([ids for ids, _ in parts]), torch.cat([probs for _, probs in parts])

    def refresh(self) -> None:
        """Bring the adapters, as they are now, into the fused layers."""
        self._model.refresh()


def open_engine(model: Any, first_layer: int, dtype: torch.dtype, device: str, pad_id: int) -> Engine:
    """Return the fast engine on a CPU for the models it computes, else the one for all models."""
    if device == "cpu" and is_supported(model):
        return FusedEngine(model, first_layer, dtype)
    return PlainEngine(model, first_layer, dtype, device, pad_id)
