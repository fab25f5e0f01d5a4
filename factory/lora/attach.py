"""A base model and a saved adapter loaded into memory. Knows torch and peft; not rows, loops or stages."""

import importlib.util
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from peft import PeftModel

from factory.errors import BaseModelError, MissingExtraError

logger = logging.getLogger(__name__)
Precision = Literal["auto", "float32", "bfloat16", "float16"]
# oneDNN keeps compiled kernels for the last 1,024 shapes it saw, and unpadded batches have new ones at each step:
# 0.6 GiB after 90 steps. It reads this at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
ANSWERING = 1.2  # times the weights: what a batch of answers takes
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device() -> str:
    """Return `cuda` where torch sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(precision: Precision, device: str) -> torch.dtype:
    """Return the dtype of the frozen weights: what was asked for, or what the device computes fast.

    A T4 and older GPUs have no bfloat16 and get float16; a CPU never gets float16, which it computes slowly.
    """
    if precision != "auto":
        return DTYPES[precision]
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    fast = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)()
    return torch.bfloat16 if fast else torch.float32


def quantization_to_answer(folder: Path, device: str) -> str:
    """Return how a model's weights are loaded to be asked: in 4 bits where the GPU cannot hold the file's 16."""
    if device != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        return "none"
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size * ANSWERING <= torch.cuda.mem_get_info()[0]:
        return "none"
    logger.warning("%s is asked in 4 bits: the GPU's memory does not hold its weights in 16", folder.name)
    return "nf4"


def seed_everything(seed: int) -> None:
    """Fix Python's, numpy's and torch's random numbers."""
    random.seed(seed)
    np.random.seed(seed)  # peft and transformers draw from the global generator
    torch.manual_seed(seed)


def load_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Return the tokenizer of a prepared base or a merged model."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def load_model(folder: Path, dtype: torch.dtype, device: str, quantization: str = "none") -> Any:
    """Return a causal language model from a local folder.

    Args:
        folder: a folder with `config.json` and `model.safetensors`.
        dtype: of the weights, or of the computation when they are quantized.
        device: `cpu` or `cuda`.
        quantization: `none`, or `nf4` for 4-bit and `int8` for 8-bit weights through bitsandbytes.

    Raises:
        BaseModelError: the folder cannot be loaded.
        MissingExtraError: quantized weights are wanted and bitsandbytes is not installed.
    """
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    try:
        if quantization != "none":
            options |= {"quantization_config": QUANTIZERS[quantization](dtype), "device_map": {"": device}}
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    except ImportError as error:
        raise MissingExtraError(
            f"train.quantization={quantization!r} needs the package bitsandbytes: pip install "
            "'adapter-factory[cuda]', or set train.quantization to none"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise BaseModelError(
            f"The model in {folder.name!r} cannot be loaded: {first}; delete it and run again"
        ) from error
    model.get_output_embeddings().register_forward_pre_hook(_make_contiguous)
    return model.to(device) if quantization == "none" else _without_packing(model)


def _make_contiguous(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Lay the last hidden states close together: torch would copy a frozen output layer for every row of a slice."""
    return (inputs[0].contiguous(),)


def _without_packing(model: Any) -> Any:
    """Keep bitsandbytes from repacking weights at the first answer on a CPU: packed ones have no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _nf4(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _int8(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    return transformers.BitsAndBytesConfig(load_in_8bit=True)


QUANTIZERS = {"nf4": _nf4, "int8": _int8}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide that peft 0.21 asks transformers 5 for an attribute by its older name, and overlooks experts' patterns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys did not match")
        yield


def changes_tied(model: Any) -> bool:
    """Tell whether an adapter is on embeddings that are the output layer, too: added to one, it would be in both."""
    on = (name for name, module in model.named_modules() if hasattr(module, "lora_A"))
    return model.config.tie_word_embeddings and any(name.endswith(("lm_head", "embed_tokens")) for name in on)


def load_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Return the model with a saved adapter on it.

    Raises:
        BaseModelError: the adapter does not fit the model.
    """
    try:
        with quiet_peft():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise BaseModelError(f"The adapter {folder.name!r} does not fit its base: {first}") from error
