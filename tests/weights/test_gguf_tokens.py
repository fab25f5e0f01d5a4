import random

import gguf
import pytest

from factory.errors import BaseModelError
from factory.weights.gguf_tokens import FIM_KEYS, FIM_TEXTS, Vocabulary, read_vocabulary
from tests.tiny import CHATML, rewrite_gguf

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"


@pytest.fixture(scope="session")
def base_file(tiny_base):
    return tiny_base / "base-F16.gguf"


def _tokens(file):
    reader = gguf.GGUFReader(file)
    return reader.get_field(TOKENS).contents(), reader.get_field(TYPES).contents()


def test_a_file_tells_its_marks_template_and_opening_token(base_file):
    assert read_vocabulary(base_file) == Vocabulary(
        frozenset({"<|endoftext|>", "<|im_start|>", "<|im_end|>"}), None, CHATML, "<|im_start|>", "<|im_end|>"
    )


@pytest.mark.parametrize("texts", FIM_TEXTS)
def test_tokens_for_a_gap_are_known_by_their_texts(base_file, tmp_path, texts):
    tokens, types = _tokens(base_file)
    tokens[10:13], types[10:13] = texts, [gguf.TokenType.CONTROL] * 3
    file = rewrite_gguf(base_file, tmp_path / "x.gguf", keys={TOKENS: tokens, TYPES: types})

    assert read_vocabulary(file).fim == texts


def test_texts_that_are_no_control_tokens_open_no_gap(base_file, tmp_path):
    tokens, _ = _tokens(base_file)
    tokens[10:13] = FIM_TEXTS[0]
    file = rewrite_gguf(base_file, tmp_path / "x.gguf", keys={TOKENS: tokens})

    assert read_vocabulary(file).fim is None


def _with_keys(source, target, numbers):
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], kind)
    for key, number in zip(FIM_KEYS, numbers, strict=True):
        writer.add_uint32(key, number)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_keys_name_the_tokens_for_a_gap(base_file, tmp_path):
    tokens, _ = _tokens(base_file)
    file = _with_keys(base_file, tmp_path / "x.gguf", (20, 22, 21))

    assert read_vocabulary(file).fim == (tokens[20], tokens[22], tokens[21])


def test_a_token_outside_the_vocabulary_is_one_clear_error(base_file, tmp_path):
    file = _with_keys(base_file, tmp_path / "x.gguf", (20, 22, 2**31))
    with pytest.raises(BaseModelError, match=r"'x\.gguf' holds a vocabulary that cannot be read"):
        read_vocabulary(file)


def test_more_types_than_tokens_is_one_clear_error(base_file, tmp_path):
    _, types = _tokens(base_file)
    file = rewrite_gguf(base_file, tmp_path / "x.gguf", keys={TYPES: [*types, gguf.TokenType.CONTROL]})
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_vocabulary(file)


def test_an_empty_control_token_refuses_no_text(base_file, tmp_path):
    tokens, _ = _tokens(base_file)
    tokens[0] = ""
    file = rewrite_gguf(base_file, tmp_path / "x.gguf", keys={TOKENS: tokens})

    assert read_vocabulary(file).control == {"<|im_start|>", "<|im_end|>"}


def test_a_file_without_a_vocabulary_has_no_marks(base_file, tmp_path):
    file = rewrite_gguf(base_file, tmp_path / "x.gguf", keys={TOKENS: None})
    assert read_vocabulary(file) == Vocabulary()


def test_a_damaged_head_is_read_or_refused_and_never_anything_else(base_file, tmp_path):
    data, rng, path = base_file.read_bytes(), random.Random(3), tmp_path / "x.gguf"
    counts = {"read": 0, "refused": 0}
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(8_000)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_vocabulary(path)
            counts["read"] += 1
        except BaseModelError as error:
            counts["refused"] += "\n" not in str(error)
    assert sum(counts.values()) == 150
    assert min(counts.values()) > 10
