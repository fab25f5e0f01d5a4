"""The sizes of a base, as transformers counts them."""

import pytest
import torch
import transformers

from factory import store
from factory.errors import BaseModelError
from factory.lora import adapter
from factory.lora.shape import open_outline, shape_of
from tests.lora.conftest import TARGETS


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_as_torch_does_with_an_adapter_and_without(tmp_path, tied):
    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        head_dim=16, vocab_size=100, tie_word_embeddings=tied,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    model = open_outline(tmp_path)
    assert {value.device.type for value in model.parameters()} == {"meta"}
    shape = shape_of(model)
    assert shape.parameters == model.num_parameters()
    linear = [module for module in model.model.layers.modules() if isinstance(module, torch.nn.Linear)]
    assert shape.layer_parameters == sum(module.weight.numel() for module in linear)
    norms = sum(value.numel() for value in model.parameters() if value.ndim == 1)
    assert shape.outer_parameters == 48 * 100 * (1 if tied else 2) + norms
    assert shape_of(adapter.new_adapter(model, adapter.AdapterSettings(4, 8.0, TARGETS[:4]))) == shape


@pytest.mark.parametrize("config", [{"n_embd": 768}, {"model_type": "gpt2", "n_embd": 768, "n_layer": 2}])
def test_a_base_of_another_shape_is_named(tmp_path, config):
    store.write_json(tmp_path / "config.json", config)
    with pytest.raises(BaseModelError, match="not of the Llama or Qwen family"):
        shape_of(open_outline(tmp_path))
