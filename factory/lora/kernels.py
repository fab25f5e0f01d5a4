"""What makes a model's own modules faster or smaller: attention without padding, Liger's kernels, compiled layers.

Each function changes a model (peft wrapper or not) in place and leaves what it computes as it was. Knows transformers;
not rows or losses.
"""

import warnings
from typing import Any

import torch
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils.import_utils import is_flash_attn_2_available, is_liger_kernel_available

FLASH = "flash_attention_2"
FLASH_CAPABILITY = (8, 0)  # Ampere; a T4 is (7, 5)
LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}  # the loss is computed elsewhere
ISOLATED = {"full_attention", "sliding_attention"}  # layers of other kinds carry a state from row to row


def speed_up(model: Any, device: str, dtype: torch.dtype) -> bool:
    """Use what is installed and this GPU can run; tell whether attention then keeps rows apart without padding.

    That is FlashAttention's doing. Without it rows of like length are padded and go through torch's own attention.
    """
    if device == "cpu":
        return False
    if is_liger_kernel_available():
        apply_liger_kernel(model, LOSSES)
    causal = _causal(model)
    kinds = set(getattr(causal.config.get_text_config(), "layer_types", None) or ())
    if dtype == torch.float32 or kinds - ISOLATED or not is_flash_attn_2_available():
        return False
    if torch.cuda.get_device_capability() < FLASH_CAPABILITY:
        return False
    causal.set_attn_implementation(FLASH)
    return True


def checkpoint_activations(model: Any) -> None:
    """Compute each layer's activations a second time in the backward pass instead of keeping them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers 5.23, which has a newer name
        _causal(model).gradient_checkpointing_enable({"use_reentrant": False})


def compile_layers(model: Any) -> None:
    """Compile each layer on its first use, for rows of any number and length."""
    for layer in _causal(model).model.layers:
        layer.compile(dynamic=True)


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
