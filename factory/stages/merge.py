"""Merge: adapter + base → one model folder that needs no adapter any more."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

CODE_VERSION = 1


class MergeConfig(BaseModel):
    """How the merged model is stored. `dtype` is that of its matrices; vectors stay in float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["float16", "float32", "bfloat16"] = "float16"


def merge(config: MergeConfig, *, adapter: Path, base: Path, work: Path) -> dict[str, Any]:
    """Add an adapter to its base in float32 and write the result as a Hugging Face folder.

    Args:
        config: how it is stored.
        adapter: folder with `adapter_config.json` and `adapter_model.safetensors`.
        base: the prepared base it was trained on.
        work: where the folder's files go.

    Returns:
        Counts for the record.

    Raises:
        MergeError: the adapter was trained on another base, holds nothing, changes nothing or does not fit;
            or the
            disk is too small.
    """
    from factory.weights import delta, merged

    lora = delta.read_adapter(adapter)
    base_name = delta.check_base(lora, base)
    merged.check_room(base, work, config.dtype)

    model = merged.merge_in_memory(lora, base)
    num_changed = merged.write_merged(model, base, work, config.dtype)
    return {
        "base": base_name,
        "num_modules": len(lora.pairs),
        "num_changed_tensors": num_changed,
        "size_bytes": (work / merged.WEIGHTS_FILE).stat().st_size,
    }
