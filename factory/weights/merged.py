"""A merged model: base plus adapter as one Hugging Face folder. Knows peft and transformers, nothing of GGUF.

The folder is laid out like a prepared base: matrices in the chosen type, vectors in float32, the tokenizer
and the chat template copied byte for byte.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from factory import hardware, store
from factory.errors import MergeError
from factory.weights.delta import LoraAdapter
from factory.weights.own import own_tensors

logger = logging.getLogger(__name__)
WEIGHTS_FILE = "model.safetensors"
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
FORGOTTEN_KEYS = (
    "_name_or_path",
    "_model_name_or_path",
    "torch_dtype",
)  # the first two can hold a local path
SPARE_BYTES = 64 << 20


def check_room(base: Path, folder: Path, dtype: str) -> None:
    """Make sure that the disk can take the merged model.

    Raises:
        MergeError: it cannot.
    """
    bytes_each = torch.finfo(getattr(torch, dtype)).bits // 8
    needed = (base / WEIGHTS_FILE).stat().st_size * bytes_each // 2 + SPARE_BYTES
    free = hardware.free_disk_bytes(folder)
    if free < needed:
        raise MergeError(
            f"The merged model needs {needed:,} bytes and {str(folder)!r} has {free:,} left: free some"
        )


def load_model(folder: Path) -> transformers.PreTrainedModel:
    """Return the model of a base or merged folder in float32, for evaluation."""
    with quiet():
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True
        ).eval()


def load_adapted(base: Path, adapter: Path) -> peft.PeftModel:
    """Return a base in float32 with an adapter on it, not merged."""
    model = load_model(base)
    with quiet():
        return peft.PeftModel.from_pretrained(model, adapter).eval()


def merge_in_memory(adapter: LoraAdapter, base: Path) -> transformers.PreTrainedModel:
    """Return the base with the adapter added to its weights, in float32.

    Raises:
        MergeError: a merged weight is not finite, or the adapter does not fit the base.
    """
    try:
        return load_adapted(base, adapter.folder).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MergeError(
            f"Adapter {str(adapter.folder)!r} does not merge: {reason}; train it again"
        ) from error


def write_merged(model: transformers.PreTrainedModel, base: Path, folder: Path, dtype: str) -> int:
    """Write a merged model as a folder and return how many tensors differ from the base's.

    Raises:
        MergeError: no tensor differs once rounded to the type, or a number does not fit it.
    """
    tensors = {name: _round(name, tensor, dtype) for name, tensor in own_tensors(model).items()}
    num_changed = _count_changed(tensors, base)
    if not num_changed:
        raise MergeError(
            f"The merged model equals its base in {dtype}: the adapter changes nothing; train it longer"
        )
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    for name in COPIED:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    config = {
        key: value
        for key, value in store.read_json(base / "config.json").items()
        if key not in FORGOTTEN_KEYS
    }
    store.write_json(folder / "config.json", config | {"dtype": dtype})
    return num_changed


def _round(name: str, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    rounded = tensor.to(getattr(torch, dtype) if tensor.ndim > 1 else torch.float32).contiguous()
    if not torch.isfinite(rounded).all():
        raise MergeError(
            f"The merged weight {name!r} is not finite in {dtype}: set merge.dtype to float32, "
            "or train with a lower learning rate"
        )
    return rounded


def _count_changed(tensors: dict[str, torch.Tensor], base: Path) -> int:
    with safe_open(base / WEIGHTS_FILE, framework="pt") as file:
        known = set(file.keys())
        return sum(
            name not in known or not torch.equal(file.get_tensor(name).to(tensor.dtype), tensor)
            for name, tensor in tensors.items()
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and peft's remarks off the terminal while the block runs."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", r"The following (rank|alpha)_pattern keys did not match")
            yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
