import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from factory import store
from factory.errors import MergeError
from factory.weights import merged
from factory.weights.delta import check_base, read_adapter
from tests.tiny import TINY_NAME, make_tiny_adapter

KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 64, "layers.1.mlp.up_proj": 4}},
    "rank_pattern": {"rank_pattern": {"k_proj": 4, "down_proj": 2}},
    "both": {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {".*_proj": 5}},
    "some_layers": {"layers_to_transform": [1]},
    "some_modules": {"target_modules": ["q_proj", "down_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_the_one_peft_adds(tiny_base, tmp_path, kind):
    folder = make_tiny_adapter(tiny_base, tmp_path, **KINDS[kind])
    adapter = read_adapter(folder)
    model = merged.load_adapted(tiny_base, folder)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }

    assert {pair.module for pair in adapter.pairs} == set(layers)
    assert adapter.obstacle is None
    for pair in adapter.pairs:
        expected = layers[pair.module].get_delta_weight("default").detach().numpy()
        assert np.allclose(pair.scale * pair.b_OR @ pair.a_RI, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["norm"]}, "more than LoRA matrices"),
    ],
)
def test_what_a_gguf_adapter_cannot_hold_is_named(tiny_base, tmp_path, lora, reason):
    assert reason in read_adapter(make_tiny_adapter(tiny_base, tmp_path, **lora)).obstacle


def _copy(adapter, folder, **config):
    store.write_json(
        folder / "adapter_config.json", store.read_json(adapter / "adapter_config.json") | config
    )
    save_file(load_file(adapter / "adapter_model.safetensors"), folder / "adapter_model.safetensors")
    return folder


def test_another_method_is_named(tiny_adapter, tmp_path):
    assert "LOHA" in read_adapter(_copy(tiny_adapter, tmp_path, peft_type="LOHA")).obstacle


def test_experts_in_one_matrix_are_no_pair(tiny_adapter, tmp_path):
    folder = _copy(tiny_adapter, tmp_path, target_parameters=["mlp.experts.down_proj"])
    tensors = load_file(folder / "adapter_model.safetensors")
    for inner in ("", "base_layer."):
        for part, size in (("A", (32, 64)), ("B", (64, 32))):
            name = f"base_model.model.model.layers.0.mlp.experts.{inner}lora_{part}.weight"
            tensors[name] = torch.ones(size)
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = read_adapter(folder)

    assert "experts" in adapter.obstacle
    assert len(adapter.others) == 4
    assert not any("experts" in pair.module for pair in adapter.pairs)


def test_bfloat16_adapters_are_read(tiny_adapter, tmp_path):
    folder = _copy(tiny_adapter, tmp_path)
    tensors = {
        name: tensor.bfloat16() for name, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")

    assert read_adapter(folder).pairs[0].a_RI.dtype == np.float32


def test_damaged_and_empty_adapters_are_refused(tiny_adapter, tmp_path):
    with pytest.raises(MergeError, match="cannot be read"):
        read_adapter(tmp_path / "none")
    folder = _copy(tiny_adapter, tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(MergeError, match="cannot be read"):
        read_adapter(folder)
    save_file({}, folder / "adapter_model.safetensors")
    with pytest.raises(MergeError, match="holds no tensors"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(MergeError, match="cannot be read"):
        read_adapter(folder)


def test_an_adapter_of_another_base_is_refused(tiny_base, tiny_adapter, tmp_path):
    assert check_base(read_adapter(tiny_adapter), tiny_base) == TINY_NAME
    foreign = _copy(tiny_adapter, tmp_path, base_model_name_or_path="other-model")

    with pytest.raises(MergeError, match=r"trained on 'other-model', not 'tiny-instruct'"):
        check_base(read_adapter(foreign), tiny_base)


def test_weights_that_are_used_twice_are_refused(tiny_base, tiny_adapter, tmp_path):
    folder = _copy(tiny_adapter, tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    for part, shape in (("A", (8, 64)), ("B", (320, 8))):
        tensors[f"base_model.model.lm_head.lora_{part}.weight"] = torch.ones(shape)
    save_file(tensors, folder / "adapter_model.safetensors")

    with pytest.raises(MergeError, match="'lm_head', whose weights"):
        check_base(read_adapter(folder), tiny_base)


def test_the_recorded_base_is_a_name_and_no_path(tiny_adapter):
    config = json.loads((tiny_adapter / "adapter_config.json").read_text())

    assert config["base_model_name_or_path"] == TINY_NAME
