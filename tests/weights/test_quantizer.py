import stat
import subprocess
import sys

import numpy as np
import pytest

from factory.errors import QuantizeError
from factory.weights import quantizer
from factory.weights.gguf_header import check_gguf_header
from factory.weights.gguf_model import GgufModel
from factory.weights.parity import kl_divergences
from tests.tiny import make_tiny_base

IDS = [1, 87, 260, 5, 99, 301, 2, 201, 1, 77, 30, 31, 222]


def test_rows_of_64_fall_back_and_are_counted(tiny_base, tmp_path):
    target = tmp_path / "q.gguf"
    quantizer.quantize_file(tiny_base / "base-F16.gguf", target, "Q4_K_M", None, 1)

    mix = quantizer.effective_mix(target, "Q4_K_M")
    assert mix["types"] == {"Q5_0": 12, "F32": 5, "Q8_0": 3}
    assert mix["num_fallbacks"] == 14
    assert mix["bits_per_weight"] == pytest.approx(6.565, abs=0.01)
    assert list(tmp_path.iterdir()) == [target]


def test_rows_of_256_do_not_fall_back(tmp_path):
    base = make_tiny_base(tmp_path / "base", hidden=256)
    quantizer.quantize_file(base / "base-F16.gguf", tmp_path / "q.gguf", "Q4_K_M", None, 1)

    mix = quantizer.effective_mix(tmp_path / "q.gguf", "Q4_K_M")
    assert mix["types"] == {"Q4_K": 12, "F32": 5, "Q6_K": 3}
    assert mix["num_fallbacks"] == 0
    assert mix["bits_per_weight"] < 5


def test_a_file_of_eight_bits_says_almost_the_same(tiny_base, tmp_path):
    quantizer.quantize_file(tiny_base / "base-F16.gguf", tmp_path / "q.gguf", "Q8_0", None, 1)
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as model:
        expected = model.logprobs(IDS)
    with GgufModel(tmp_path / "q.gguf", threads=1) as model:
        assert 0 < kl_divergences(expected, model.logprobs(IDS)).mean() < 0.02


def test_an_importance_matrix_changes_the_file_and_survives_the_disk(tiny_base, tmp_path):
    names = [t.name for t in check_gguf_header(tiny_base / "base-F16.gguf").tensors if "blk" in t.name]
    columns = {name: 128 if "ffn_down" in name else 64 for name in names if "norm" not in name}
    imatrix = {name: np.linspace(0.01, 9, width, dtype=np.float32) for name, width in columns.items()}
    quantizer.write_imatrix(tmp_path / "imatrix.npz", imatrix)
    for name, file in (("plain", None), ("weighted", tmp_path / "imatrix.npz")):
        quantizer.quantize_file(tiny_base / "base-F16.gguf", tmp_path / name, "Q4_0", file, 1)

    again = quantizer.read_imatrix(tmp_path / "imatrix.npz")
    assert all(np.array_equal(again[name], values) for name, values in imatrix.items())
    assert (tmp_path / "plain").read_bytes() != (tmp_path / "weighted").read_bytes()
    assert (tmp_path / "plain").stat().st_size > 0


def test_an_importance_matrix_of_the_wrong_size_is_an_error(tiny_base, tmp_path):
    quantizer.write_imatrix(tmp_path / "imatrix.npz", {"blk.0.attn_q.weight": np.ones(63, dtype=np.float32)})

    with pytest.raises(QuantizeError, match="imatrix"):
        quantizer.quantize_file(
            tiny_base / "base-F16.gguf", tmp_path / "q.gguf", "Q4_0", tmp_path / "imatrix.npz", 1
        )
    assert not list(tmp_path.glob("q.gguf*"))


def test_an_unknown_type_names_the_allowed_ones(tiny_base, tmp_path):
    with pytest.raises(QuantizeError, match=r"'Q9' is not known.*Q8_0.*Q4_K_M"):
        quantizer.quantize_file(tiny_base / "base-F16.gguf", tmp_path / "q.gguf", "Q9", None, 1)


def test_a_failed_child_leaves_no_file(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(QuantizeError, match="exit 1"):
        quantizer.quantize_file(tmp_path / "broken.gguf", tmp_path / "q.gguf", "Q8_0", None, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]


def test_a_child_that_dies_halfway_leaves_no_file(tiny_base, tmp_path, monkeypatch):
    suicide = tmp_path / "python"
    suicide.write_text('#!/bin/sh\nhead -c 1000 "$3" > "$4"\nkill -9 $$\n')
    suicide.chmod(suicide.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(suicide))

    with pytest.raises(QuantizeError, match="exit -9"):
        quantizer.quantize_file(tiny_base / "base-F16.gguf", tmp_path / "q.gguf", "Q8_0", None, 1)
    assert not list(tmp_path.glob("q.gguf*"))


def test_a_child_that_writes_half_a_file_and_says_it_is_done_is_caught(tiny_base, tmp_path, monkeypatch):
    def write_half(command, **_):
        half = (tiny_base / "base-F16.gguf").read_bytes()[:20000]
        (tmp_path / "q.gguf.unfinished").write_bytes(half)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", write_half)

    with pytest.raises(QuantizeError, match="incomplete"):
        quantizer.quantize_file(tiny_base / "base-F16.gguf", tmp_path / "q.gguf", "Q8_0", None, 1)
    assert not list(tmp_path.iterdir())


def test_the_child_needs_no_torch():
    code = "import sys, factory.weights.quantizer; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_child_that_does_not_end_is_stopped_and_named(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(quantizer, "TIMEOUT_S", 0.01)
    with pytest.raises(
        QuantizeError, match=r"base-F16.gguf was not quantized to Q8_0 within 0.01 s: choose another"
    ):
        quantizer.quantize_file(tiny_base / "base-F16.gguf", tmp_path / "q.gguf", "Q8_0", None, 1)
    assert list(tmp_path.iterdir()) == []
