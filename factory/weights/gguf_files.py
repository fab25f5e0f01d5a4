"""GGUF files made from a base's: the merged model in F16 and the adapter on its own.

Every key of the base's file that shapes behaviour is copied, tokenizer and template included: nothing is
derived a second time. Keys that describe the base's origin are left out, because the result is another model,
and because converters leave local paths in them.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import torch
from safetensors import safe_open

from factory.errors import QuantizeError
from factory.weights.delta import LoraAdapter, LoraPair
from factory.weights.gguf_header import DEFAULT_ALIGNMENT, MAGIC, GgufHeader, check_gguf_header
from factory.weights.gguf_names import GgufNames, expert_of
from factory.weights.unfinished import unfinished

WEIGHTS_FILE, BASE_FILE = "model.safetensors", "base-F16.gguf"
KEPT_GENERAL_KEYS = frozenset(
    f"general.{name}"
    for name in (
        "architecture", "type", "file_type", "size_label", "license", "languages", "quantization_version", "alignment"
    )
)  # fmt: skip
BASE_SHA256_KEY = "adapter_factory.base_sha256"


def write_merged_gguf(base: Path, merged: Path, target: Path, name: str) -> int:
    """Write a merged model as an F16 GGUF file: the base's file, byte for byte, but for the changed weights.

    Args:
        base: the prepared base folder.
        merged: the folder of the merged model.
        target: the file to write.
        name: the model's name in the file's metadata.

    Returns:
        The number of replaced tensors.

    Raises:
        QuantizeError: a changed weight has no place in the file, or does not fit F16.
    """
    header = check_gguf_header(base / BASE_FILE)
    changed = _changed_weights(base, merged, GgufNames(header))
    with (
        (base / BASE_FILE).open("rb") as source,
        unfinished(target) as temporary,
        temporary.open("wb") as file,
    ):
        head = _head(source, header, name)
        file.write(head)
        for tensor in header.tensors:
            source.seek(header.layout.data_start + tensor.offset)
            data = bytearray(source.read(tensor.size_bytes))
            for start, part in changed.get(tensor.name, {}).items():
                data[start : start + len(part)] = part
            file.seek(len(head) + tensor.offset)
            file.write(data)
    return len(changed)


def _head(source: BinaryIO, header: GgufHeader, name: str) -> bytes:
    """Return the bytes before the data: the base's kept keys and tensor list as they are, and a new name."""
    spans = [
        span
        for key, span in header.layout.key_spans.items()
        if not key.startswith("general.") or key in KEPT_GENERAL_KEYS
    ]
    parts = [struct.pack("<4sIQQ", MAGIC, header.version, len(header.tensors), len(spans) + 1)]
    for start, end in spans:
        source.seek(start)
        parts.append(source.read(end - start))
    parts += [_packed("general.name"), struct.pack("<I", gguf.GGUFValueType.STRING), _packed(name)]
    start, end = header.layout.tensors_span
    source.seek(start)
    parts.append(source.read(end - start))
    head = b"".join(parts)
    return head + bytes(-len(head) % header.keys.get("general.alignment", DEFAULT_ALIGNMENT))


def _packed(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def write_adapter_gguf(adapter: LoraAdapter, base: Path, target: Path, name: str, base_sha256: str) -> None:
    """Write a plain LoRA adapter as an F16 GGUF file that llama.cpp adds to the base at run time.

    llama.cpp scales by `adapter.lora.alpha / rank` for all modules alike (src/llama-adapter.h, `get_scale`),
    so what rsLoRA and `alpha_pattern` do differently is folded into B.

    Args:
        adapter: one whose `obstacle` is None.
        base: the prepared base folder.
        target: the file to write.
        name: the adapter's name in the file's metadata.
        base_sha256: the base's identity; llama.cpp itself never checks which base it meets.

    Raises:
        QuantizeError: a module has no place in the base's file, or a number does not fit F16.
    """
    names = GgufNames(check_gguf_header(base / BASE_FILE))
    alpha = adapter.pairs[0].scale * adapter.pairs[0].rank
    with unfinished(target) as temporary:
        writer = gguf.GGUFWriter(temporary, names.header.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_string(BASE_SHA256_KEY, base_sha256)
        for pair in adapter.pairs:
            _add_pair(writer, names, pair, alpha)
        _finish(writer)


def _add_pair(writer: gguf.GGUFWriter, names: GgufNames, pair: LoraPair, alpha: float) -> None:
    weight = f"{pair.module}.weight"
    stored = names.of(weight)
    b_OR = names.order(weight, pair.b_OR * (pair.scale * pair.rank / alpha))
    writer.add_tensor(f"{stored}.lora_a", _to_f16(weight, pair.a_RI))
    writer.add_tensor(f"{stored}.lora_b", _to_f16(weight, b_OR))


def _changed_weights(base: Path, merged: Path, names: GgufNames) -> dict[str, dict[int, bytes]]:
    """Return the weights that differ from the base's as they stand in the file: GGUF name, first byte, bytes.

    A weight is a whole tensor, an expert's a part of one.
    """
    changed: dict[str, dict[int, bytes]] = {}
    stored = {tensor.name: tensor for tensor in names.header.tensors}
    with (
        safe_open(base / WEIGHTS_FILE, framework="pt") as before,
        safe_open(merged / WEIGHTS_FILE, framework="pt") as after,
    ):
        known = set(before.keys())
        for name in after.keys():  # noqa: SIM118 (safe_open is no mapping)
            weight = after.get_tensor(name)
            if name in known and torch.equal(before.get_tensor(name).to(weight.dtype), weight):
                continue
            tensor, expert = stored[names.of(name)], expert_of(name)
            size = tensor.size_bytes if expert is None else tensor.size_bytes // tensor.shape[-1]
            values = names.order(name, (weight.float() if weight.dtype == torch.bfloat16 else weight).numpy())
            stored_as = _to_f16(name, values) if tensor.type_name == "F16" else values.astype(np.float32)
            data = stored_as.tobytes()
            if len(data) != size or tensor.type_name not in {"F16", "F32"}:
                raise QuantizeError(
                    f"The weight {name!r} of shape {tuple(weight.shape)} does not fit the base's GGUF file, which "
                    f"holds {tensor.shape} in {tensor.type_name}: delete the cached base and run again"
                )
            changed.setdefault(tensor.name, {})[size * (expert or 0)] = data
    return changed


def _to_f16(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16, copy=False)
    if not np.isfinite(halves).all():
        raise QuantizeError(f"The weight {name!r} does not fit F16: train with a lower learning rate")
    return halves


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
