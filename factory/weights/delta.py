"""What a LoRA adapter adds to its base: two matrices and a scale for every module. Knows no base weights.

The scales follow peft's `LoraLayer.update_layer` (peft/tuners/lora/layer.py, 0.21): `alpha / r`, with
`use_rslora` `alpha / √r`, where `alpha_pattern` and `rank_pattern` replace both for the modules they match.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file

from factory import store
from factory.errors import MergeError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LoraPair:
    """The update of one module's weight: `scale * b_OR @ a_RI`, with O outputs, I inputs and rank R."""

    module: str
    a_RI: Matrix
    b_OR: Matrix
    scale: float

    @property
    def rank(self) -> int:
        """The rank R."""
        return len(self.a_RI)


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter folder in memory. `others` are its tensors that are no plain LoRA matrices."""

    folder: Path
    config: dict[str, Any]
    pairs: tuple[LoraPair, ...]
    others: tuple[str, ...]

    @property
    def base_name(self) -> str:
        """The name of the base model it was trained on."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be a GGUF adapter, which holds two matrices a module; None when it can."""
        if self.config.get("peft_type") != "LORA":
            return f"its method is {self.config.get('peft_type')}, not LORA"
        if self.config.get("use_dora"):
            return "it uses DoRA, whose magnitudes the format cannot hold"
        if self.config.get("target_parameters"):
            return "it adapts weights of experts, several in one matrix"
        if self.others:
            return f"it trains more than LoRA matrices, such as {self.others[0]!r}"
        return None


def read_adapter(folder: Path) -> LoraAdapter:
    """Read an adapter folder in peft's format.

    Raises:
        MergeError: a file is missing or damaged, or no module would change.
    """
    try:
        config = store.read_json(folder / CONFIG_FILE)
        tensors = {name: tensor.float().numpy() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise MergeError(f"Adapter {str(folder)!r} cannot be read: {error}; train it again") from error
    if not isinstance(config, dict) or not tensors:
        raise MergeError(f"Adapter {str(folder)!r} holds no tensors: train it again")
    pairs, others = _sort(tensors, config)
    return LoraAdapter(folder, config, pairs, others)


def check_base(adapter: LoraAdapter, base: Path) -> str:
    """Return the base's name once it is the one the adapter was trained on.

    Raises:
        MergeError: it is another, or the adapter changes weights that its base uses twice.
    """
    name = str(store.read_json(base / "base.json")["name"])
    if adapter.base_name != name:
        raise MergeError(
            f"Adapter {str(adapter.folder)!r} was trained on {adapter.base_name!r}, not {name!r}: "
            "set `base` in the recipe or train again"
        )
    tied = store.read_json(base / "config.json").get("tie_word_embeddings")
    shared = [pair.module for pair in adapter.pairs if pair.module.endswith(("lm_head", "embed_tokens"))]
    if tied and shared:
        raise MergeError(
            f"Adapter {str(adapter.folder)!r} changes {shared[0]!r}, whose weights {name!r} uses twice: "
            "merging would change both places; leave it out of the target modules"
        )
    return name


def _sort(tensors: dict[str, Matrix], config: dict[str, Any]) -> tuple[tuple[LoraPair, ...], tuple[str, ...]]:
    pairs, others = [], []
    holders = tuple(f".{name}".rpartition(".")[0] for name in config.get("target_parameters") or ())
    for name, values in tensors.items():
        module, _, part = name.removeprefix(PREFIX).rpartition(".lora_")
        twin = name.replace(".lora_A.", ".lora_B.")
        if holders and f".{module}".removesuffix(".base_layer").endswith(holders):
            others.append(name)
        elif part == "A.weight" and values.ndim == 2 and twin in tensors:
            pairs.append(LoraPair(module, values, tensors[twin], _scale(module, len(values), config)))
        elif part != "B.weight" or values.ndim != 2:
            others.append(name)
    return tuple(pairs), tuple(others)


def _scale(module: str, rank: int, config: dict[str, Any]) -> float:
    alpha = float(_match(config.get("alpha_pattern"), module, config.get("lora_alpha", rank)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _match(pattern: dict[str, Any] | None, module: str, default: Any) -> Any:
    """Return the first value whose key matches the end of a module's name, as peft's `get_pattern_key`."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
