"""A model cut below its first adapted layer: what lies under the cut is frozen and its output is kept.

Layers without an adapter give the same hidden states in every epoch, so each row goes through them once.
Knows decoder-only models of the Llama shape (`model.layers`, `model.norm`); not rows, losses or schedules.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _layers(core: Any, layers: Any, norm: Any) -> Iterator[None]:
    kept = core.layers, core.norm
    core.layers, core.norm = layers, norm
    try:
        yield
    finally:
        core.layers, core.norm = kept


class SplitModel:
    """A causal language model as a frozen lower part and a trained upper part."""

    def __init__(self, model: Any, first_layer: int) -> None:
        """Cut the model (peft wrapper or not) below `first_layer`; 0 leaves the lower part empty."""
        self.whole = model
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._core, self.head = causal.model, causal.lm_head
        self._lower = torch.nn.ModuleList(self._core.layers[:first_layer])
        self._upper = torch.nn.ModuleList(self._core.layers[first_layer:])
        self._norm = self._core.norm

    @torch.no_grad()
    def lower(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the hidden states below the cut, shape (rows, length, width)."""
        with _layers(self._core, self._lower, torch.nn.Identity()):
            return self._core(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state

    def upper(self, hidden_BTD: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states, normalised, from those below the cut; same shape."""
        with _layers(self._core, self._upper, self._norm):
            return self._core(
                inputs_embeds=hidden_BTD, attention_mask=mask_BT, use_cache=False
            ).last_hidden_state
