"""What decides how much a step keeps, read off the modules of a base with its adapter. Counts no bytes.

Before a run the modules are an outline without weights, in a run they are those that are trained.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper

from factory.lora import distributed
from factory.lora.adapter import adapted_layers, first_trained_layer, new_adapter, settings_of
from factory.lora.attach import quiet_peft
from factory.lora.config import TrainConfig
from factory.lora.engine import is_fused
from factory.lora.initial import ADAPTER
from factory.lora.memory import FLOAT, Setup
from factory.lora.shape import open_outline, shape_of
from factory.lora.whitening import most_directions

# Modules that read the same tensor; what o_proj reads is attention's own result, which is kept with or without it.
SHARED = {"q_proj": "heads", "k_proj": "heads", "v_proj": "heads", "gate_proj": "gates", "up_proj": "gates"}
ATTENDED = "o_proj"


def outline(base: Path, config: TrainConfig, continued: Path | None = None) -> Any:
    """Return the base with the adapter to be trained, new or that in a folder, on the device `meta`.

    Raises:
        BaseModelError: the base cannot be read, or has no such modules.
        TrainError: it has no such layer, or a pattern matches nothing.
    """
    model = open_outline(base)
    with torch.device("meta"):
        if continued is None:
            settings = settings_of(config, model.config.get_text_config().num_hidden_layers)
            return new_adapter(model, replace(settings, init="default"))
        saved = LoraConfig.from_pretrained(str(continued))
        saved.inference_mode, saved.base_model_name_or_path = False, None
        with quiet_peft():
            return get_peft_model(model, saved)


def setup_of(model: Any, config: TrainConfig, device: str, dtype: torch.dtype) -> Setup:
    """Return what training a model with an adapter keeps, computing on a device in a dtype."""
    layers: list[tuple[str, Any]] = list(adapted_layers(model))
    modules = [(name, layer) for name, layer in layers if not isinstance(layer, ParamWrapper)]
    experts = [layer for _, layer in layers if isinstance(layer, ParamWrapper)]
    dropout = any(isinstance(layer.lora_dropout[ADAPTER], torch.nn.Dropout) for _, layer in modules)
    copied = dropout or dtype.itemsize < FLOAT
    own_modules = bool(config.checkpointing) or config.compile or config.quantization != "none"
    return Setup(
        shape=shape_of(model),
        first_layer=first_trained_layer(model),
        trained=sum(value.numel() for value in model.parameters() if value.requires_grad),
        inputs=_inputs(modules, copied),
        ranks=sum(layer.r[ADAPTER] for _, layer in modules),
        dtype_bytes=dtype.itemsize,
        float16=dtype == torch.float16,
        fused=is_fused(model, device, own_modules=own_modules),
        results=sum(2 * (layer.out_features or 0) for _, layer in modules if layer.use_dora[ADAPTER]),
        directions=sum(size * most_directions(size) for size in _read(modules)) if config.whiten else 0,
        retained=_retained(modules) if config.retain else 0,
        rebuilt=sum(layer.get_param().numel() for layer in experts),
        dropout=dropout,
        checkpointing=bool(config.checkpointing),
        offloaded=config.checkpointing == "offload" and device == "cuda",
        head_norms=any(name.endswith(".q_norm") for name, _ in model.named_modules()),
        quantization=config.quantization,
        init=config.init,
        processes=distributed.num_processes() if distributed.is_sharded() else 1,
        shares_offloaded=distributed.is_offloaded() and device == "cuda",
        cuda=device == "cuda",
    )


def _inputs(modules: list[tuple[str, Any]], copied: bool) -> int:
    """Return what modules read of one token; those that read the same share it unless each makes a copy."""
    if copied:
        return sum(layer.in_features for _, layer in modules)
    return sum(_read([(name, layer) for name, layer in modules if not name.endswith(f".{ATTENDED}")]))


def _retained(modules: list[tuple[str, Any]]) -> int:
    """Return the numbers of the directions of what modules read and put out."""
    plain = [(name, layer) for name, layer in modules if not layer.use_dora[ADAPTER]]
    sizes = [*_read(plain), *(layer.out_features or 0 for _, layer in plain)]
    return sum(size * most_directions(size) for size in sizes)


def _read(modules: list[tuple[str, Any]]) -> Iterable[int]:
    """Return how many numbers of one token each different input has."""
    read = {}
    for name, layer in modules:
        parent, _, leaf = name.rpartition(".")
        read[parent, SHARED.get(leaf, leaf)] = layer.in_features
    return read.values()
