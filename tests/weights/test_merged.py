import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from factory import hardware
from factory.errors import MergeError
from factory.weights import merged
from factory.weights.delta import read_adapter
from factory.weights.parity import torch_logprobs
from tests.tiny import make_tiny_adapter

IDS = [1, 87, 260, 5, 99, 301, 2, 201, 1, 77]


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"modules_to_save": ["norm"]},
    ],
)
def test_merged_logits_equal_the_adapters(tiny_base, tmp_path, lora):
    folder = make_tiny_adapter(tiny_base, tmp_path / "adapter", **lora)
    expected = torch_logprobs(merged.load_adapted(tiny_base, folder), IDS, 0)
    (tmp_path / "merged").mkdir()
    model = merged.merge_in_memory(read_adapter(folder), tiny_base)
    merged.write_merged(model, tiny_base, tmp_path / "merged", "float32")

    assert np.abs(torch_logprobs(merged.load_model(tmp_path / "merged"), IDS, 0) - expected).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_matrices_take_the_type_and_vectors_stay_exact(tiny_base, tiny_adapter, tmp_path, dtype):
    model = merged.merge_in_memory(read_adapter(tiny_adapter), tiny_base)
    num_changed = merged.write_merged(model, tiny_base, tmp_path, dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    before = load_file(tiny_base / "model.safetensors")

    assert num_changed == 14
    assert set(tensors) == set(before)
    for name, tensor in tensors.items():
        assert tensor.dtype == (getattr(torch, dtype) if tensor.ndim > 1 else torch.float32)
        if "norm" in name:
            assert torch.equal(tensor, before[name])
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (tiny_base / name).read_bytes()


def test_no_local_path_is_kept(tiny_base, tiny_adapter, tmp_path):
    model = merged.merge_in_memory(read_adapter(tiny_adapter), tiny_base)
    merged.write_merged(model, tiny_base, tmp_path, "float16")

    for path in tmp_path.iterdir():
        assert str(tiny_base).encode() not in path.read_bytes()


def test_an_adapter_that_changes_nothing_is_refused(tiny_base, tmp_path):
    folder = make_tiny_adapter(tiny_base, tmp_path, strength=1e-9)
    model = merged.merge_in_memory(read_adapter(folder), tiny_base)

    with pytest.raises(MergeError, match="changes nothing"):
        merged.write_merged(model, tiny_base, tmp_path, "float16")
    assert not (tmp_path / "model.safetensors").exists()


def test_numbers_that_are_not_finite_are_refused(tiny_base, tiny_adapter, tmp_path):
    tensors = load_file(tiny_adapter / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((tiny_adapter / "adapter_config.json").read_bytes())
    first = next(name for name in tensors if "lora_B" in name)
    tensors[first][0, 0] = float("nan")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(MergeError, match="does not merge"):
        merged.merge_in_memory(read_adapter(tmp_path), tiny_base)

    tensors[first][0, 0] = 1e6
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    model = merged.merge_in_memory(read_adapter(tmp_path), tiny_base)
    with pytest.raises(MergeError, match="not finite in float16"):
        merged.write_merged(model, tiny_base, tmp_path, "float16")


def test_a_disk_that_is_too_small_is_noticed_first(tiny_base, tmp_path, monkeypatch):
    merged.check_room(tiny_base, tmp_path, "float32")
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 1000)

    with pytest.raises(MergeError, match="1,000 left"):
        merged.check_room(tiny_base, tmp_path, "float16")


def test_loading_says_nothing(tiny_base, tiny_adapter, capfd):
    merged.load_adapted(tiny_base, tiny_adapter)

    assert capfd.readouterr() == ("", "")
