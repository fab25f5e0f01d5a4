"""The chat template that a GGUF file carries, as marks around turns. Knows no bundle and no runtime."""

import struct
from pathlib import Path

from factory.chat.turns import TurnTemplate, derive
from factory.errors import ExportError
from factory.weights.gguf_header import GgufHeader, check_gguf_header

TEMPLATE_KEY, TOKENS_KEY, OPENING_KEY, CLOSING_KEY = (
    f"tokenizer.{name}" for name in ("chat_template", "ggml.tokens", "ggml.bos_token_id", "ggml.eos_token_id")
)


def read_turn_template(path: Path) -> TurnTemplate:
    """Return the chat template of a GGUF file.

    Raises:
        BaseModelError: the file is no usable GGUF file.
        ExportError: it carries no template, or one that does more than write turns between fixed marks.
    """
    header = check_gguf_header(path)
    source = header.keys.get(TEMPLATE_KEY)
    if not isinstance(source, str):
        raise ExportError(
            f"{path} carries no chat template: export the bundle again from a base that has one"
        )
    return derive(source, *(_token(path, header, key) for key in (OPENING_KEY, CLOSING_KEY)))


def _token(path: Path, header: GgufHeader, key: str) -> str:
    """Return the text of the token that a key names by number; it stands in an array that the header leaves out."""
    index = header.keys.get(key)
    if not isinstance(index, int) or not 0 <= index < header.array_lengths.get(TOKENS_KEY, 0):
        return ""
    start, _ = header.layout.key_spans[TOKENS_KEY]
    with path.open("rb") as file:
        # Before the strings: the key with its length, the types of array and element, the number of elements.
        file.seek(start + 8 + len(TOKENS_KEY) + 4 + 4 + 8)
        for _ in range(index):
            file.seek(_length(file.read(8)), 1)
        return file.read(_length(file.read(8))).decode("utf-8", "replace")


def _length(encoded: bytes) -> int:
    return int(struct.unpack("<Q", encoded)[0])
