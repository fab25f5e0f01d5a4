"""Bases and adapters in memory: what is trainable, what is written, and that it comes back to the last bit."""

import json
from pathlib import Path

import pytest
import torch

from factory.errors import BaseModelError, MissingExtraError
from factory.lora import attach
from tests.lora.conftest import TARGETS

IDS = torch.tensor([[1, 40, 50, 60, 70, 2]])


def _logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("first_layer", [0, 1])
def test_only_the_adapter_of_the_layers_from_the_first_is_trained(new_model, first_layer: int) -> None:
    model = new_model(first_layer)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in trained}
    assert layers == set(range(first_layer, 2))
    assert len(trained) == 2 * len(TARGETS) * (2 - first_layer)
    assert all("lora_" in name for name in trained)
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}


def test_a_fresh_adapter_changes_nothing(base, new_model) -> None:
    assert torch.equal(_logits(new_model()), _logits(attach.load_model(base, torch.float32, "cpu")))


def test_a_saved_adapter_comes_back_with_identical_logits(base, new_model, tmp_path: Path) -> None:
    model = new_model(trained=True)
    attach.save_adapter(model, tmp_path, "tiny-instruct")
    again = attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), tmp_path)
    assert torch.equal(_logits(again), _logits(model))
    assert not torch.equal(_logits(again), _logits(attach.load_model(base, torch.float32, "cpu")))


def test_the_written_config_names_the_base_and_no_path(base, new_model, tmp_path: Path) -> None:
    attach.save_adapter(new_model(1), tmp_path, "tiny-instruct")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    text = (tmp_path / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert str(base) not in text
    assert "/" not in text.replace("\\/", "")
    assert config["base_model_name_or_path"] == "tiny-instruct"
    assert (config["r"], config["lora_alpha"], config["layers_to_transform"]) == (4, 8.0, [1])
    assert sorted(config["target_modules"]) == sorted(TARGETS)
    assert config["inference_mode"] is True


def test_a_module_that_the_base_lacks_is_named(base) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    with pytest.raises(BaseModelError, match="wrong_proj"):
        attach.new_adapter(model, rank=4, alpha=8.0, dropout=0.0, targets=("wrong_proj",), first_layer=0)


def test_an_adapter_of_another_shape_is_refused(base, new_model, tmp_path: Path) -> None:
    attach.save_adapter(new_model(), tmp_path, "tiny-instruct")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 16}), encoding="utf-8")
    with pytest.raises(BaseModelError, match="does not fit"):
        attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        attach.load_model(tmp_path, torch.float32, "cpu")


def test_seeds_fix_what_is_drawn(new_model) -> None:
    one, two = (dict(new_model().named_parameters()) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_a_precision_that_is_named_is_taken(precision, dtype) -> None:
    assert attach.pick_dtype(precision, "cpu") == dtype


def test_a_cpu_never_computes_in_float16_of_its_own_accord() -> None:
    assert attach.pick_dtype("auto", "cpu") in {torch.float32, torch.bfloat16}


def _dequantized(module) -> torch.Tensor:
    import bitsandbytes.functional as functional

    if hasattr(module.weight, "quant_state"):
        return functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    scale = module.state.SCB if module.weight.SCB is None else module.weight.SCB
    values = module.state.CB if module.weight.CB is None else module.weight.CB
    return values.float() * scale[:, None] / 127


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_weights_train_on_a_cpu_as_what_they_stand_for(base, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    quantized, plain = (
        attach.load_model(base, torch.float32, "cpu", kind) for kind in (quantization, "none")
    )
    changed = 0.0
    for name, module in quantized.named_modules():
        if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}:
            weight, stands_for = plain.get_submodule(name).weight.data, _dequantized(module).float()
            changed = max(changed, float((stands_for - weight).norm() / weight.norm()))
            weight.copy_(stands_for)
    assert 1e-3 < changed < 0.2, "few bits lose something, not everything"
    gradients = []
    for model in (quantized, plain):
        attach.seed_everything(3)
        model = attach.new_adapter(model, rank=4, alpha=8.0, dropout=0.0, targets=TARGETS, first_layer=0)
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append(
            {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
        )
    assert len(gradients[1]) == 28
    for name, expected in gradients[1].items():
        assert (gradients[0][name] - expected).norm() < 1e-3 * expected.norm(), name
        assert expected.norm() > 0


def test_without_bitsandbytes_the_way_out_is_said(base, monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("no bitsandbytes")

    monkeypatch.setitem(attach.QUANTIZERS, "nf4", missing)
    with pytest.raises(MissingExtraError, match="pip install"):
        attach.load_model(base, torch.float32, "cpu", "nf4")


def test_a_slice_of_hidden_states_reaches_the_output_layer_in_one_piece(base) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    seen: list[bool] = []
    model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].is_contiguous())
    )
    model(input_ids=IDS.repeat(3, 1), logits_to_keep=1)
    assert seen == [True]
