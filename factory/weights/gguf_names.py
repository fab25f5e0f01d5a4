"""How Hugging Face weights are named and ordered in a GGUF file, where the architecture's rules are known.

Follows llama.cpp's converter (`conversion/llama.py`, `LlamaModel.permute`): its rotary embedding pairs
neighbouring rows where Hugging Face pairs row i with row i + half a head, so query and key rows move. Experts of a
layer, a weight each in a folder, are one tensor of the file, one after another.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gguf
import numpy as np

from factory.errors import QuantizeError
from factory.weights.gguf_header import GgufHeader

REORDERED = frozenset({"llama", "granite", "smollm3"})
AS_THEY_ARE = frozenset({"qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3"})
KNOWN = REORDERED | AS_THEY_ARE
EXPERT = re.compile(r"(.+\.experts)\.(\d+)(\..+)")


@dataclass(frozen=True)
class GgufNames:
    """The naming rules of one GGUF file.

    Raises:
        QuantizeError: its architecture is not known here.
    """

    header: GgufHeader

    def __post_init__(self) -> None:
        """Refuse what would be exported wrong without a sign of it."""
        if self.header.architecture not in KNOWN:
            raise QuantizeError(
                f"Models of the architecture {self.header.architecture!r} cannot be exported to GGUF: how "
                f"weights are ordered is known for {', '.join(sorted(KNOWN))} only; use such a base"
            )

    @cached_property
    def _map(self) -> gguf.TensorNameMap:
        architecture = gguf.MODEL_ARCH[self.header.architecture.upper()]
        return gguf.get_tensor_name_map(architecture, self.key("block_count"))

    @cached_property
    def _stored(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.header.tensors)

    def key(self, name: str) -> int:
        """Return an integer setting of the architecture, such as `block_count`."""
        return int(self.header.keys[f"{self.header.architecture}.{name}"])

    def of(self, name: str) -> str:
        """Return the name that a Hugging Face weight has in the file; all experts of a layer have the same.

        Raises:
            QuantizeError: the file holds no such tensor.
        """
        found = self._map.get_name(EXPERT.sub(r"\1\3", name), try_suffixes=(".weight", ".bias"))
        if found not in self._stored:
            raise QuantizeError(
                f"The weight {name!r} has no place in the base's GGUF file: "
                "leave its module out of the target modules"
            )
        return str(found)

    def order(self, name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a weight's rows (its output dimension comes first) in the file's order.

        Raises:
            QuantizeError: it is a norm of a model whose file stores norms plus one.
        """
        if self.header.architecture.startswith("gemma") and "norm" in name:
            raise QuantizeError(
                f"The adapter trains {name!r}: leave norms out, the file stores them otherwise"
            )
        if self.header.architecture not in REORDERED:
            return values
        if ".q_proj." in name:
            return interleave_halves(values, self.key("attention.head_count"))
        if ".k_proj." in name:
            return interleave_halves(values, self.key("attention.head_count_kv"))
        return values


def expert_of(name: str) -> int | None:
    """Return which expert of its layer a Hugging Face weight belongs to; None for a weight that stands alone."""
    found = EXPERT.fullmatch(name)
    return int(found[2]) if found else None


def interleave_halves(values: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """Put row i and row i + half of each head side by side; `values` has shape (num_heads * head_size, …)."""
    halves = values.reshape(num_heads, 2, len(values) // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
