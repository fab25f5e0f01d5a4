import random
import struct

import pytest

from factory.errors import BaseModelError
from factory.weights.gguf_header import check_gguf_header


def test_a_sound_file_tells_its_architecture_keys_and_tensors(tiny_base):
    header = check_gguf_header(tiny_base / "base-F16.gguf")

    assert header.architecture == "llama"
    assert header.keys["llama.block_count"] == 2
    assert header.array_lengths["tokenizer.ggml.tokens"] == 320
    embedding = next(tensor for tensor in header.tensors if tensor.name == "token_embd.weight")
    assert (embedding.shape, embedding.type_name) == ((64, 320), "F16")
    assert embedding.size_bytes == 2 * embedding.num_weights == 2 * 64 * 320


def _file(tmp_path, data):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


def _string(text):
    return struct.pack("<Q", len(text)) + text.encode()


ARCHITECTURE = _string("general.architecture") + struct.pack("<I", 8) + _string("llama")
HEAD = b"GGUF" + struct.pack("<I", 3)
TENSOR = _string("a") + struct.pack("<I", 1) + struct.pack("<QIQ", 32, 0, 0)


def _with(tensors=b"", keys=b"", num_tensors=1, num_keys=1):
    return HEAD + struct.pack("<QQ", num_tensors, num_keys) + keys + tensors


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"GG", "starts with b'GG'"),
        (b"PK\x03\x04" + bytes(100), "starts with b'PK"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(64), "version is 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(64), "version is 50331648"),
        (HEAD, "past its end"),
        (_with(num_tensors=2**63, num_keys=2**63), "past its end"),
        (_with(keys=struct.pack("<Q", 2**62)), "at most 65535"),
        (_with(keys=_string("k") + struct.pack("<I", 99)), "unknown type 99"),
        (_with(keys=_string("k") + struct.pack("<IIQ", 9, 8, 2**60)), "past its end"),
        (_with(keys=_string("k") + struct.pack("<IIQ", 9, 9, 1)), "holds values of type 9"),
        (_with(keys=_string("k") + struct.pack("<IIQ", 9, 0, 2**64 - 1)), "past its end"),
        (_with(keys=2 * ARCHITECTURE, num_keys=2), "twice"),
        (_with(keys=_string("k") + struct.pack("<IB", 7, 1)), "general.architecture"),
        (_with(keys=ARCHITECTURE, num_tensors=0), "no tensors"),
        (_with(keys=ARCHITECTURE, tensors=_string("a") + struct.pack("<I", 0)), "0 dimensions"),
        (_with(keys=ARCHITECTURE, tensors=_string("a") + struct.pack("<I", 10**9)), "dimensions"),
        (_with(keys=ARCHITECTURE, tensors=_string("a" * 64)), "at most 63"),
        (_with(keys=ARCHITECTURE, tensors=TENSOR), "does not fit"),
        (
            _with(keys=ARCHITECTURE, tensors=_string("a") + struct.pack("<IQIQ", 1, 32, 77, 0)),
            "unknown type 77",
        ),
        (_with(keys=ARCHITECTURE, tensors=_string("a") + struct.pack("<IQIQ", 1, 33, 8, 0)), "shape (33,)"),
        (
            _with(
                keys=ARCHITECTURE + _string("general.alignment") + struct.pack("<II", 4, 0),
                num_keys=2,
                tensors=TENSOR,
            ),
            "alignment is 0",
        ),
        (
            _with(
                keys=ARCHITECTURE + _string("llama.block_count") + struct.pack("<II", 4, 10**9), num_keys=2
            ),
            "1000000000 layers",
        ),
        (
            _with(
                keys=ARCHITECTURE + _string("llama.attention.head_count") + struct.pack("<II", 4, 0),
                num_keys=2,
            ),
            "head_count is 0",
        ),
    ],
)
def test_what_cannot_be_true_is_refused_in_one_line(tmp_path, data, reason):
    with pytest.raises(BaseModelError) as caught:
        check_gguf_header(_file(tmp_path, data))

    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(BaseModelError, match="No such file"):
        check_gguf_header(tmp_path / "none.gguf")
    with pytest.raises(BaseModelError, match="Is a directory"):
        check_gguf_header(tmp_path)


def test_damage_anywhere_is_refused_or_read_and_never_crashes(tiny_base, tmp_path):
    whole = (tiny_base / "base-F16.gguf").read_bytes()
    header_bytes = len(whole) - sum(
        t.size_bytes for t in check_gguf_header(tiny_base / "base-F16.gguf").tensors
    )
    generator = random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 2, 8))):
            at = generator.randrange(header_bytes if generator.random() < 0.5 else 600)
            width = generator.choice((1, 4, 8))
            data[at : at + width] = generator.choice((b"\xff", b"\x00", generator.randbytes(1))) * width
        if generator.random() < 0.3:
            del data[generator.randrange(len(data)) :]
        try:
            check_gguf_header(_file(tmp_path, bytes(data)))
        except BaseModelError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 15
