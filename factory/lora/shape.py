"""The sizes of a base model, read from its configuration. Knows numbers; loads no weights."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import transformers

from factory.errors import BaseModelError
from factory.lora.fused import is_llama_shaped


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama shape.

    `width` is that of the hidden states, `inner` of the MLP, `queries` and `keys` of all query and of all key heads
    together. A `tied` output layer is the embedding. `llama` tells whether the fused engine computes such layers.
    """

    layers: int
    width: int
    inner: int
    heads: int
    queries: int
    keys: int
    vocabulary: int
    tied: bool
    llama: bool

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer: inputs and outputs by name."""
        width, inner = self.width, self.inner
        return {
            "q_proj": (width, self.queries),
            "k_proj": (width, self.keys),
            "v_proj": (width, self.keys),
            "o_proj": (self.queries, width),
            "gate_proj": (width, inner),
            "up_proj": (width, inner),
            "down_proj": (inner, width),
        }

    @property
    def layer_parameters(self) -> int:
        """The weights of all layers without their norms, which are less than a thousandth."""
        return self.layers * sum(rows * columns for rows, columns in self.modules.values())

    @property
    def outer_parameters(self) -> int:
        """The weights of the embedding and of an output layer of its own."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.layer_parameters + self.outer_parameters

    def adapter_parameters(self, rank: int, targets: Collection[str], first_layer: int = 0) -> int:
        """Return the trained weights of LoRA on the named modules from `first_layer` on."""
        sizes = [sum(size) for name, size in self.modules.items() if name in targets]
        return (self.layers - first_layer) * rank * sum(sizes)


def read_shape(folder: Path) -> Shape:
    """Return the shape of the base in a folder with `config.json`.

    Raises:
        BaseModelError: there is no such configuration, or it is of another family.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return Shape(
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            inner=config.intermediate_size,
            heads=config.num_attention_heads,
            queries=config.num_attention_heads * head,
            keys=config.num_key_value_heads * head,
            vocabulary=config.vocab_size,
            tied=bool(config.tie_word_embeddings),
            llama=is_llama_shaped(config),
        )
    except (AttributeError, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise BaseModelError(
            f"The base in {folder.name!r} is not of the Llama or Qwen family, as its config.json says "
            f"({first}): name another base"
        ) from error
