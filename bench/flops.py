"""How many floating-point operations a training step needs, counted from the model's shape. Knows no tensors.

A multiplication with an addition is two. Frozen weights cost 2 a parameter and token forward and 2 backward, for
the gradient of their input; they have none of their own. Each LoRA matrix costs 2 more for its gradient. The output
layer is counted on tokens with loss only, attention on what a token may see, and neither padding nor norms at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model with LoRA of one rank on all linear layers."""

    width: int
    inner: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_size: int
    vocabulary: int
    rank: int

    @classmethod
    def of(cls, config: Any, rank: int) -> "Shape":
        """Return the shape that a transformers configuration states."""
        heads = config.num_attention_heads
        return cls(
            width=config.hidden_size,
            inner=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=heads,
            num_key_heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            rank=rank,
        )

    def linear(self) -> list[tuple[int, int]]:
        """Return (in, out) of a layer's matrices."""
        queries, keys = self.num_heads * self.head_size, self.num_key_heads * self.head_size
        attention = [(self.width, queries), (self.width, keys), (self.width, keys), (queries, self.width)]
        return [*attention, (self.width, self.inner), (self.width, self.inner), (self.inner, self.width)]


def step_flops(shape: Shape, lengths: Sequence[int], prefix: int, num_labels: int) -> float:
    """Return the operations of one step, forward and backward.

    Args:
        shape: of the model.
        lengths: tokens of each row, the shared beginning among them.
        prefix: tokens that all rows begin with and that are computed once; 0 counts every row whole.
        num_labels: tokens with loss.
    """
    own = [length - prefix for length in lengths]
    tokens = prefix + sum(own)
    frozen = sum(4 * inputs * outputs for inputs, outputs in shape.linear())
    adapters = sum(6 * shape.rank * (inputs + outputs) for inputs, outputs in shape.linear())
    pairs = prefix * sum(own) + sum(size * (size + 1) // 2 for size in [*own, prefix])
    attention = 12 * shape.num_heads * shape.head_size * pairs
    head = 4 * shape.width * shape.vocabulary * num_labels
    return float(shape.num_layers * (tokens * (frozen + adapters) + attention) + head)
