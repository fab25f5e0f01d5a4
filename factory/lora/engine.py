"""How training computes a batch: in fused layers where model and device allow it, else as transformers does.

Both give the summed loss of some rows and, for layers under the first adapter, hidden states worth keeping.
Knows rows and losses; not steps or schedules.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, Protocol

import torch

from factory.lora import distributed, kernels
from factory.lora.batches import IGNORED, EncodedRow, collate
from factory.lora.fused import FusedModel, is_supported
from factory.lora.layout import lay_out
from factory.lora.losses import LOSS_CHUNK, SoftTargets, losses_of_logits, token_losses, top_probs
from factory.lora.split import SplitModel
from factory.lora.step import autocast


class Engine(Protocol):
    """Computes losses of a model whose layers before the first adapter are frozen.

    `shares_prefixes` tells whether what all rows given together begin with is computed once.
    """

    shares_prefixes: bool

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        ...

    def token_losses(
        self,
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
        soft: SoftTargets | None = None,
    ) -> torch.Tensor:
        """Return the loss, in nats, of each of the rows' labels, row after row.

        `below` is what `lower` returned; `soft` targets have the labels' order.
        """
        ...

    def top_probs(self, rows: Sequence[EncodedRow], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids and probabilities of the likeliest tokens where the rows' labels stand: (labels, count)."""
        ...

    def refresh(self) -> None:
        """Take the adapters as they are now; to be called whenever they have changed."""
        ...


@dataclass(frozen=True)
class _Input:
    """Rows as a model takes them: `ids` (B, T), what else it is told of them, and what carries loss.

    `before_targets` (M,) are places among B · T tokens whose next one carries loss, `targets` (M,) that next one.
    """

    ids: torch.Tensor
    where: dict[str, Any]
    before_targets: torch.Tensor
    targets: torch.Tensor


def _padded(rows: Sequence[EncodedRow], pad_id: int, device: str) -> _Input:
    batch = collate(rows, pad_id)
    next_BT = torch.nn.functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).flatten()
    before = (next_BT != IGNORED).nonzero().squeeze(1)
    batch, targets = batch.to(device), next_BT[before].to(device)
    return _Input(batch.ids, {"attention_mask": batch.mask}, before.to(device), targets)


def _side_by_side(rows: Sequence[EncodedRow], device: str) -> _Input:
    """Return rows one after another: positions and the rows' borders tell attention what is whose."""
    layout = lay_out(rows, device, share=False)
    borders = torch.tensor([0, *accumulate(layout.lengths)], dtype=torch.int32, device=device)
    where: dict[str, Any] = {"position_ids": layout.positions[None]}
    where |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders}
    where |= {"max_length_q": layout.longest, "max_length_k": layout.longest}
    return _Input(layout.ids[None], where, layout.before_targets, layout.targets)


class PlainEngine:
    """Batches through the model's own modules, computed in a low precision where one is asked for."""

    shares_prefixes = False

    def __init__(
        self,
        model: Any,
        first_layer: int,
        dtype: torch.dtype,
        device: str,
        pad_id: int,
        *,
        unpadded: bool = False,
        offloaded: bool = False,
    ) -> None:
        """Cut the model; nothing is copied.

        `unpadded` is for attention that keeps rows side by side apart. `offloaded` keeps in main memory what is kept
        for the backward pass, for layers that are computed twice.
        """
        self._split = SplitModel(model, first_layer)
        self._dtype, self._device, self._pad_id, self._unpadded = dtype, device, pad_id, unpadded
        self._offloaded = offloaded

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        given = self._arrange(rows)
        with autocast(self._device, self._dtype):
            hidden_BTD = self._split.lower(given.ids, given.where)
        if self._unpadded:
            return [part.clone() for part in hidden_BTD[0].split([len(row.ids) for row in rows])]
        return [values[: len(row.ids)].clone() for row, values in zip(rows, hidden_BTD, strict=True)]

    def token_losses(
        self,
        rows: Sequence[EncodedRow],
        below: Sequence[torch.Tensor] | None,
        soft: SoftTargets | None = None,
    ) -> torch.Tensor:
        """Return the loss, in nats, of each of the rows' labels, row after row."""
        head = self._split.head
        with autocast(self._device, self._dtype):
            last_MD, targets_M = self._last(rows, below)
            soft = soft and soft.to(last_MD.device)
            if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
                return token_losses(last_MD.to(head.weight.dtype), head.weight, targets_M, soft)
            logits_MV = head(last_MD)  # an output layer that is more than a frozen matrix
        return losses_of_logits(logits_MV, targets_M, soft)

    @torch.no_grad()
    def top_probs(self, rows: Sequence[EncodedRow], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids and probabilities of the likeliest tokens where the rows' labels stand: (labels, count)."""
        with autocast(self._device, self._dtype):
            logits_MV = self._split.head(self._last(rows, None)[0])
        return top_probs(logits_MV, count)

    def _last(
        self, rows: Sequence[EncodedRow], below: Sequence[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden states (M, D) of the tokens before the rows' labels, and these (M,)."""
        given = self._arrange(rows)
        with self._keeping():
            if below is None:
                last_BTD = self._split.whole(given.ids, given.where)
            else:
                last_BTD = self._split.upper(self._join(below), given.where)
        return last_BTD.flatten(0, 1)[given.before_targets], given.targets

    def _keeping(self) -> AbstractContextManager[Any]:
        """Return where tensors are kept; layers not in training mode are computed once and would move their weights."""
        if self._offloaded and self._split.training:
            return torch.autograd.graph.save_on_cpu(pin_memory=self._device == "cuda")
        return nullcontext()

    def refresh(self) -> None:
        """Do nothing: the model's own modules hold the adapters."""

    def _arrange(self, rows: Sequence[EncodedRow]) -> _Input:
        if self._unpadded:
            return _side_by_side(rows, self._device)
        return _padded(rows, self._pad_id, self._device)

    def _join(self, below: Sequence[torch.Tensor]) -> torch.Tensor:
        if self._unpadded:
            return torch.cat(list(below))[None]
        return torch.nn.utils.rnn.pad_sequence(list(below), batch_first=True)


class FusedEngine:
    """Rows without padding through fused layers, behind one copy of the tokens that all of them begin with."""

    shares_prefixes = True

    def __init__(self, model: Any, first_layer: int, dtype: torch.dtype) -> None:
        """Copy the frozen weights into the layers' own form."""
        self._model = FusedModel(model, first_layer, dtype)

    def lower(self, rows: Sequence[EncodedRow]) -> list[torch.Tensor]:
        """Return what enters the first adapted layer, one tensor of shape (length, width) a row."""
        layout = lay_out(rows)
        return [values.to(self._model.dtype) for values in layout.apart(self._model.lower(layout))]

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


def is_fused(model: Any, device: str, *, own_modules: bool) -> bool:
    """Tell whether the fast engine computes a model: on a CPU, where it knows the layers and nothing else is asked for.

    `own_modules` are asked for by recomputed activations, compiled layers and quantized weights, and by weights that
    are spread over processes.
    """
    return device == "cpu" and not own_modules and not distributed.is_sharded() and is_supported(model)


def open_engine(
    model: Any,
    first_layer: int,
    dtype: torch.dtype,
    device: str,
    pad_id: int,
    *,
    checkpointing: bool | Literal["offload"] = False,
    compiled: bool = False,
) -> Engine:
    """Return the fast engine for the models it computes, else the one for all models."""
    if is_fused(model, device, own_modules=bool(checkpointing) or compiled):
        return FusedEngine(model, first_layer, dtype)
    unpadded = kernels.speed_up(model, device, dtype)
    if checkpointing:
        kernels.checkpoint_activations(model)
    if compiled:
        kernels.compile_layers(model)
    offloaded = checkpointing == "offload"
    return PlainEngine(model, first_layer, dtype, device, pad_id, unpadded=unpadded, offloaded=offloaded)
