"""The sizes of a base model, read from its configuration and counted on its modules. Loads no weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from factory.errors import BaseModelError


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama shape.

    `width` is that of the hidden states, `inner` of the MLP, or of all experts together that see a token; `queries`
    and `keys` of all query and of all key heads together. `parameters` are all weights.
    """

    layers: int
    width: int
    inner: int
    heads: int
    queries: int
    keys: int
    vocabulary: int
    parameters: int

    @property
    def layer_parameters(self) -> int:
        """The weights of all layers that a token meets, without norms, which are less than a thousandth."""
        return self.layers * self.width * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    @property
    def outer_parameters(self) -> int:
        """All other weights: embedding, an output layer of its own, and experts that do not see a token."""
        return self.parameters - self.layer_parameters


def open_outline(folder: Path) -> Any:
    """Return the base in a folder with `config.json` as modules on the device `meta`, where nothing has weights.

    Raises:
        BaseModelError: there is no such configuration.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise _of_another_family(folder, error) from error


def shape_of(model: Any) -> Shape:
    """Return the shape of a model's base (peft wrapper or not).

    Raises:
        BaseModelError: it is of another family.
    """
    wrapped = hasattr(model, "get_base_model")
    causal = model.get_base_model() if wrapped else model
    config = causal.config.get_text_config()
    try:
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
        return Shape(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=inner * (getattr(config, "num_experts_per_tok", None) or 1),
            heads=config.num_attention_heads,
            queries=config.num_attention_heads * head,
            keys=config.num_key_value_heads * head,
            vocabulary=config.vocab_size,
            parameters=causal.num_parameters() - wrapped * causal.num_parameters(only_trainable=True),
        )
    except AttributeError as error:
        raise _of_another_family(Path(config.name_or_path), error) from error


def _of_another_family(folder: Path, error: Exception) -> BaseModelError:
    first = str(error).strip().split("\n")[0]
    return BaseModelError(
        f"The base in {folder.name!r} is not of the Llama or Qwen family, as its config.json says ({first}): name "
        "another base"
    )
