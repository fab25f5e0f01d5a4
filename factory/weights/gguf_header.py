"""What the head of a GGUF file claims, checked against the bytes that are there. Loads no tensor.

C code that reads a damaged or hostile file can abort the whole process, and readers that trust its counts
hang, so every length is compared with the file's size before it is used.
Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from factory.errors import BaseModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = dict(enumerate(("B", "b", "<H", "<h", "<I", "<i", "<f", "?"))) | {10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_NAME_BYTES = 63  # GGML_MAX_NAME is 64 with its closing zero
MAX_KEY_BYTES = 65535  # the format's own limit
MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
NEED_ONE = ("block_count", "embedding_length", "attention.head_count", "context_length")


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a GGUF file; `shape` has the contiguous dimension (the row length) first.

    `offset` counts from the start of the file's data.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size_bytes: int

    @property
    def num_weights(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a file begin and end, in bytes: each key with its value, the tensor list, the data."""

    key_spans: dict[str, tuple[int, int]]
    tensors_span: tuple[int, int]
    data_start: int


@dataclass(frozen=True)
class GgufHeader:
    """A checked header: scalar and string keys by name, lengths of arrays, and the tensors in file order."""

    version: int
    keys: dict[str, Any]
    array_lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...]
    layout: Layout

    @property
    def architecture(self) -> str:
        """The model family, such as `llama`."""
        return str(self.keys["general.architecture"])


class _Fault(Exception):
    """A claim of the header that cannot be true."""


@dataclass(frozen=True)
class _Array:
    """An array that was skipped."""

    length: int


@dataclass(frozen=True)
class _Claim:
    """Where a tensor is said to be."""

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass
class _Cursor:
    """A position in the file that never runs past its end."""

    data: mmap.mmap
    at: int = 0

    def take(self, length: int) -> bytes:
        start = self.at
        self.skip(length)
        return self.data[start : self.at]

    def scalar(self, code: str) -> Any:
        try:
            return struct.unpack(code, self.take(struct.calcsize(code)))[0]
        except struct.error as error:
            raise _Fault(str(error)) from error

    def string(self, limit: int | None = None) -> str:
        length = self.scalar("<Q")
        if limit is not None and length > limit:
            raise _Fault(f"a name at {self.at} is {length} bytes long, at most {limit} are allowed")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Fault(f"the text before {self.at} is not UTF-8") from error

    def skip_array(self) -> _Array:
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[kind]))
        elif kind == STRING:
            for _ in range(count):
                self.skip(self.scalar("<Q"))
        else:
            raise _Fault(f"an array at {self.at} holds values of type {kind}")
        return _Array(count)

    def skip(self, length: int) -> None:
        if length > len(self.data) - self.at:
            raise _Fault(f"{length} bytes at {self.at} run past its end at {len(self.data)}")
        self.at += length


def check_gguf_header(path: Path) -> GgufHeader:
    """Return the header of a GGUF file once everything it claims fits the file.

    Raises:
        BaseModelError: the file is missing, empty, no GGUF, of another version, or claims more than it holds.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(data))
    except _Fault as fault:
        raise BaseModelError(f"{path.name!r} is not a usable GGUF file: {fault}; get a fresh copy") from fault
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BaseModelError(
            f"{str(path)!r} cannot be read as GGUF: {reason}; name an existing .gguf file"
        ) from error


def _read(cursor: _Cursor) -> GgufHeader:
    magic = cursor.take(min(4, len(cursor.data)))
    if magic != MAGIC:
        raise _Fault(f"it starts with {magic!r}, not {MAGIC!r}")
    version = cursor.scalar("<I")
    if version not in VERSIONS:
        raise _Fault(f"its format version is {version}, only {VERSIONS} are read")
    num_tensors, num_keys = cursor.scalar("<Q"), cursor.scalar("<Q")
    values, key_spans = _collect(cursor, num_keys, _read_key, "key")
    lengths = {name: value.length for name, value in values.items() if isinstance(value, _Array)}
    keys = {name: value for name, value in values.items() if name not in lengths}
    _check_keys(keys)
    first = cursor.at
    claims, _ = _collect(cursor, num_tensors, _read_tensor, "tensor")
    alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
    layout = Layout(key_spans, (first, cursor.at), cursor.at + -cursor.at % alignment)
    room = len(cursor.data) - layout.data_start
    infos = tuple(_place(name, claim, room, alignment) for name, claim in claims.items())
    if not infos:
        raise _Fault("it holds no tensors")
    return GgufHeader(version, keys, lengths, infos, layout)


def _collect(
    cursor: _Cursor, count: int, read: Callable[[_Cursor], tuple[str, Any]], kind: str
) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    found: dict[str, Any] = {}
    spans = {}
    for _ in range(count):
        start = cursor.at
        name, value = read(cursor)
        if name in found:
            raise _Fault(f"the {kind} {name!r} stands in it twice")
        found[name], spans[name] = value, (start, cursor.at)
    return found, spans


def _read_key(cursor: _Cursor) -> tuple[str, Any]:
    name, kind = cursor.string(MAX_KEY_BYTES), cursor.scalar("<I")
    if kind in SCALARS:
        return name, cursor.scalar(SCALARS[kind])
    if kind == STRING:
        return name, cursor.string()
    if kind == ARRAY:
        return name, cursor.skip_array()
    raise _Fault(f"the key {name!r} has the unknown type {kind}")


def _check_keys(keys: dict[str, Any]) -> None:
    architecture = keys.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise _Fault("it names no general.architecture")
    alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _Fault(f"its alignment is {alignment!r}, not a power of two")
    for name in NEED_ONE:
        value = keys.get(f"{architecture}.{name}", 1)
        if not isinstance(value, int) or value < 1:
            raise _Fault(f"{architecture}.{name} is {value!r}")
    if keys.get(f"{architecture}.block_count", 1) > MAX_LAYERS:
        raise _Fault(f"it claims {keys[f'{architecture}.block_count']} layers, at most {MAX_LAYERS} are read")


def _read_tensor(cursor: _Cursor) -> tuple[str, _Claim]:
    name, num_dimensions = cursor.string(MAX_NAME_BYTES), cursor.scalar("<I")
    if not 0 < num_dimensions <= MAX_DIMENSIONS:
        raise _Fault(f"the tensor {name!r} has {num_dimensions} dimensions")
    shape = tuple(cursor.scalar("<Q") for _ in range(num_dimensions))
    return name, _Claim(shape, cursor.scalar("<I"), cursor.scalar("<Q"))


def _place(name: str, claim: _Claim, room: int, alignment: int) -> TensorInfo:
    if claim.kind not in GGML_QUANT_SIZES:
        raise _Fault(f"the tensor {name!r} has the unknown type {claim.kind}")
    quantization = GGMLQuantizationType(claim.kind)
    block, block_bytes = GGML_QUANT_SIZES[quantization]
    if min(claim.shape) < 1 or claim.shape[0] % block:
        raise _Fault(f"the tensor {name!r} of type {quantization.name} has the shape {claim.shape}")
    size = prod(claim.shape) // block * block_bytes
    if claim.offset % alignment or claim.offset + size > room:
        raise _Fault(
            f"the tensor {name!r} of {size} bytes at {claim.offset} does not fit its {room} bytes of data"
        )
    return TensorInfo(name, claim.shape, quantization.name, claim.offset, size)
