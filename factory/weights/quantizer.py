"""llama.cpp's quantizer, run in a process of its own, and what a quantized file really holds.

C code that aborts takes its process with it and leaves half a file behind; here it can do neither to a run.
Measured: SmolLM2-135M takes 3 to 6 s a file on two cores.
"""

import ctypes
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as ll
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

import factory
from factory.errors import BaseModelError, QuantizeError
from factory.weights.gguf_context import last_warnings, silence_log
from factory.weights.gguf_header import GgufHeader, TensorInfo, check_gguf_header
from factory.weights.unfinished import unfinished

# llama_ftype in llama.cpp's include/llama.h
FILE_TYPES = {
    "Q4_0": 2,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}
DEFAULT_FTYPE, DEFAULT_BUFFER_BYTES = 7, 8 << 30  # what 0.3.36 must report, else its structure has moved
K_BLOCK = 256  # QK_K: rows that are no multiple of it cannot hold K-quants and fall back to another type
K_TYPES = frozenset(FILE_TYPES) - {"Q4_0", "Q8_0", "Q5_0", "IQ4_NL"}
EMBEDDINGS = frozenset({"token_embd.weight", "output.weight"})  # quantized by rules of their own
TIMEOUT_S = 4 * 3600
Imatrix = Mapping[str, npt.NDArray[np.float32]]


def quantize_file(source: Path, target: Path, type_name: str, imatrix: Path | None, threads: int) -> None:
    """Quantize an F16 GGUF file in a child process; the target appears only when it is whole.

    Args:
        source: the F16 file.
        target: the file to write.
        type_name: a key of `FILE_TYPES`.
        imatrix: a file of `write_imatrix`, or None.
        threads: CPU threads.

    Raises:
        QuantizeError: the type is not known, or the child failed or did not end.
    """
    check_type(type_name)
    with unfinished(target) as temporary:
        command = [sys.executable, "-m", __name__, str(source), str(temporary), type_name, str(threads)]
        command += [str(imatrix)] if imatrix else []
        root = str(Path(factory.__file__).parent.parent)
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": paths},
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise QuantizeError(
                f"{source.name} was not quantized to {type_name} within {TIMEOUT_S} s: choose another type in "
                "quantize.types, or run again when the machine has less to do"
            ) from error
        if done.returncode:
            last = (done.stderr.strip().split("\n") or [""])[-1] or "no message"
            raise QuantizeError(
                f"{source.name} could not be quantized to {type_name} (exit {done.returncode}): {last}; "
                "choose another type in quantize.types, or free disk space"
            )
        _check_whole(temporary, type_name)


def _check_whole(path: Path, type_name: str) -> None:
    try:
        check_gguf_header(path)
    except BaseModelError as error:
        raise QuantizeError(
            f"The {type_name} file is incomplete: {error}; free disk space and run again"
        ) from error


def check_type(type_name: str) -> None:
    """Refuse a type that llama.cpp's quantizer is not offered for here.

    Raises:
        QuantizeError: with the allowed names.
    """
    if type_name not in FILE_TYPES:
        raise QuantizeError(
            f"Quantization type {type_name!r} is not known: use one of {', '.join(FILE_TYPES)}"
        )


def effective_mix(path: Path, type_name: str) -> dict[str, Any]:
    """Return what a file holds, whatever its name promises.

    Returns:
        `types` (tensors of each type), `bits_per_weight`, and `num_fallbacks`: matrices whose row length is
        no multiple of 256, so that llama.cpp stored them in another type than the one asked for.
    """
    header = check_gguf_header(path)
    return {
        "types": dict(Counter(tensor.type_name for tensor in header.tensors).most_common()),
        "bits_per_weight": round(bits_per_weight(header), 3),
        "num_fallbacks": sum(_fell_back(tensor, type_name) for tensor in header.tensors),
    }


def bits_per_weight(header: GgufHeader) -> float:
    """Return the bits that a file spends on one weight on average."""
    bits = 8 * sum(tensor.size_bytes for tensor in header.tensors)
    return bits / sum(tensor.num_weights for tensor in header.tensors)


def _fell_back(tensor: TensorInfo, type_name: str) -> bool:
    matrix = len(tensor.shape) > 1 and tensor.name not in EMBEDDINGS
    return type_name in K_TYPES and matrix and tensor.shape[0] % K_BLOCK > 0 and _block(tensor) < K_BLOCK


def _block(tensor: TensorInfo) -> int:
    return GGML_QUANT_SIZES[GGMLQuantizationType[tensor.type_name]][0]


def write_imatrix(path: Path, imatrix: Imatrix) -> None:
    """Write an importance matrix: the mean square of each input column, by GGUF tensor name."""
    with unfinished(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **imatrix)


def read_imatrix(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Read a file of `write_imatrix`."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def run_quantizer(source: Path, target: Path, type_name: str, threads: int, imatrix: Imatrix) -> None:
    """Quantize in this process, which llama.cpp may abort.

    Raises:
        QuantizeError: llama.cpp refused, or the installed package has another parameter structure.
    """
    silence_log()
    params = ll.llama_model_quantize_default_params()
    if (params.ftype, params.max_buf_size) != (
        DEFAULT_FTYPE,
        DEFAULT_BUFFER_BYTES,
    ) or not params.quantize_output_tensor:
        raise QuantizeError("llama-cpp-python's quantizer has unexpected defaults: install version 0.3.36")
    params.ftype, params.nthread = FILE_TYPES[type_name], threads
    entries = (
        ll.llama_model_imatrix_data * (len(imatrix) + 1)
    )()  # the last one stays empty: it ends the list
    columns = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in imatrix.items()}
    for entry, (name, values) in zip(entries, columns.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if imatrix:
        params.imatrix = entries
    if ll.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise QuantizeError(last_warnings())


def main(arguments: list[str]) -> int:
    """Run the child: `source target type threads [imatrix]`; the last line on stderr says what failed."""
    os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort would else start a debugger
    source, target, type_name, threads, *rest = arguments
    imatrix = read_imatrix(Path(rest[0])) if rest else {}
    try:
        run_quantizer(Path(source), Path(target), type_name, int(threads), imatrix)
    except QuantizeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
