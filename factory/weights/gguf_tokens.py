"""The special tokens of a GGUF file: those that steer the model, and those that mark a gap. Loads no weights."""

from dataclasses import dataclass
from pathlib import Path

import gguf

from factory.errors import BaseModelError
from factory.weights.gguf_header import check_gguf_header

# Texts by which llama.cpp knows the tokens for fill-in-the-middle when no key names them (src/llama-vocab.cpp).
FIM_TEXTS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<PRE>", "<SUF>", "<MID>"),
)
FIM_KEYS = (
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_mid_token_id",
)


@dataclass(frozen=True)
class Vocabulary:
    """Special tokens of a file.

    `control` are the texts that a tokenizer reads as marks wherever they stand; `fim` the three that open what is
    before a gap, what is after it, and the gap, or None where the vocabulary has none. `template` is the file's Jinja
    chat template, and `bos` and `eos` the tokens that it may open and close texts with.
    """

    control: frozenset[str] = frozenset()
    fim: tuple[str, str, str] | None = None
    template: str = ""
    bos: str = ""
    eos: str = ""


def read_vocabulary(path: Path) -> Vocabulary:
    """Return a file's special tokens.

    Raises:
        BaseModelError: the file's header is damaged.
    """
    check_gguf_header(path)
    try:
        return _read(gguf.GGUFReader(path))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BaseModelError(
            f"{path.name!r} holds a vocabulary that cannot be read ({type(error).__name__}): get a fresh copy"
        ) from error


def _read(reader: gguf.GGUFReader) -> Vocabulary:
    tokens, types = reader.get_field("tokenizer.ggml.tokens"), reader.get_field("tokenizer.ggml.token_type")
    if tokens is None or types is None:
        return Vocabulary()
    kinds = (types.parts[index][0] for index in types.data)
    numbers = [number for number, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL]
    control = frozenset(text for number in numbers if (text := _text(tokens, number)))
    ids = [field.contents() for key in FIM_KEYS if (field := reader.get_field(key))]
    named = (_text(tokens, ids[0]), _text(tokens, ids[1]), _text(tokens, ids[2])) if len(ids) == 3 else None
    template, *ends = map(
        reader.get_field,
        ("tokenizer.chat_template", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    )
    return Vocabulary(
        control,
        named or next((texts for texts in FIM_TEXTS if control.issuperset(texts)), None),
        str(template.contents()) if template else "",
        *(_text(tokens, end.contents()) if end else "" for end in ends),
    )


def _text(tokens: gguf.ReaderField, number: int) -> str:
    return bytes(tokens.parts[tokens.data[number]]).decode("utf-8", "replace")
