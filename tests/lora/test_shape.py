"""The sizes of a base, as transformers and peft count them."""

import pytest
import torch
import transformers

from factory import store
from factory.errors import BaseModelError
from factory.lora import adapter, attach, fused
from factory.lora.shape import read_shape
from tests.lora.conftest import TARGETS
from tests.tiny import CONFIGS, make_tiny_base


@pytest.mark.parametrize("tied", [True, False])
def test_weights_and_adapter_are_counted_as_torch_does(tmp_path, tied):
    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=16, vocab_size=100, tie_word_embeddings=tied,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    norms = sum(value.numel() for value in model.parameters() if value.ndim == 1)
    assert shape.parameters == model.num_parameters() - norms
    model = adapter.new_adapter(model, adapter.AdapterSettings(4, 8.0, TARGETS[:4], layers=(1, 2)))
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert shape.adapter_parameters(4, TARGETS[:4], first_layer=1) == trained


@pytest.mark.parametrize("family", CONFIGS)
def test_the_engine_that_runs_is_told_from_the_configuration(tmp_path, family):
    base = make_tiny_base(tmp_path / family, family=family)
    model = attach.load_model(base, torch.float32, "cpu")
    model = adapter.new_adapter(model, adapter.AdapterSettings(4, 8.0, TARGETS))
    assert read_shape(base).llama == fused.is_supported(model)


def test_a_window_or_scaled_angles_are_for_the_plain_engine(tmp_path):
    config = transformers.Qwen2Config(use_sliding_window=True)
    config.save_pretrained(tmp_path / "window")
    transformers.Qwen2Config().save_pretrained(tmp_path / "whole")
    assert not read_shape(tmp_path / "window").llama
    assert read_shape(tmp_path / "whole").llama


@pytest.mark.parametrize("config", [{"n_embd": 768}, {"model_type": "gpt2", "n_embd": 768}])
def test_a_base_of_another_shape_is_named(tmp_path, config):
    store.write_json(tmp_path / "config.json", config)
    with pytest.raises(BaseModelError, match="not of the Llama or Qwen family"):
        read_shape(tmp_path)
