"""A model cut below its first adapted layer: what lies under the cut is frozen and its output is kept.

Layers without an adapter give the same hidden states in every epoch, so each row goes through them once.
Knows decoder-only models of the Llama shape (`model.layers`, `model.norm`); not rows, losses or schedules.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from factory.errors import BaseModelError

SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale")  # what some families do to logits
Where = Mapping[str, Any]  # of tokens besides their ids: `attention_mask`, or `position_ids` and the like


class SplitModel:
    """A causal language model as a frozen lower part and a trained upper part."""

    def __init__(self, model: Any, first_layer: int) -> None:
        """Cut the model (peft wrapper or not) below `first_layer`; 0 leaves the lower part empty.

        Raises:
            BaseModelError: the model changes its logits after the output layer, which nobody does who uses `head`.
        """
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        _refuse_scaled(causal.config.get_text_config())
        self._core, self.head, self._first_layer = causal.model, causal.lm_head, first_layer
        self._lower = torch.nn.ModuleList(self._core.layers[:first_layer])
        self._upper = torch.nn.ModuleList(self._core.layers[first_layer:])

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return bool(self._core.training)

    @torch.no_grad()
    def lower(self, ids_BT: torch.Tensor, where: Where) -> torch.Tensor:
        """Return the hidden states below the cut, shape (rows, length, width)."""
        with self._only(self._lower, 0, torch.nn.Identity()):
            return self._through(where, input_ids=ids_BT)

    def upper(self, hidden_BTD: torch.Tensor, where: Where) -> torch.Tensor:
        """Return the last hidden states, normalised, from those below the cut; same shape."""
        with self._only(self._upper, self._first_layer, self._core.norm):
            return self._through(where, inputs_embeds=hidden_BTD)

    def whole(self, ids_BT: torch.Tensor, where: Where) -> torch.Tensor:
        """Return the last hidden states, normalised, shape (rows, length, width)."""
        return self._through(where, input_ids=ids_BT)

    def _through(self, where: Where, **tokens: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self._core(**tokens, **where, use_cache=False).last_hidden_state
        return last

    @contextmanager
    def _only(self, layers: torch.nn.ModuleList, start: int, norm: Any) -> Iterator[None]:
        """Leave the model some layers, the first of which is number `start`, while the block runs."""
        core, config = self._core, self._core.config
        kept, kinds = (core.layers, core.norm), getattr(config, "layer_types", None)
        core.layers, core.norm = layers, norm
        if kinds:  # the model looks a layer's kind up by its place
            config.layer_types = [*kinds[start:], *kinds[:start]]
        try:
            yield
        finally:
            core.layers, core.norm = kept
            if kinds:
                config.layer_types = kinds


def _refuse_scaled(config: Any) -> None:
    for name in SCALES:
        value = getattr(config, name, None)
        if value not in {None, 1}:
            raise BaseModelError(
                f"The base has {name}={value!r} in its config.json: training does not know such logits; "
                "name a base of the Llama or Qwen family"
            )
