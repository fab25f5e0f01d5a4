"""Bases in memory, plain or in four bits, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from factory.errors import BaseModelError, MissingExtraError
from factory.lora import attach
from factory.lora.adapter import AdapterSettings, new_adapter, save_adapter
from tests.lora.conftest import TARGETS

IDS = torch.tensor([[1, 40, 50, 60, 70, 2]])


def _logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_an_adapter_of_another_shape_is_refused(base, new_model, tmp_path: Path) -> None:
    save_adapter(new_model(), tmp_path, "tiny-instruct")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 16}), encoding="utf-8")
    with pytest.raises(BaseModelError, match="does not fit"):
        attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        attach.load_model(tmp_path, torch.float32, "cpu")


@pytest.mark.parametrize(("free", "quantization"), [(1.3, "none"), (1.1, "nf4")])
def test_a_gpu_that_cannot_hold_16_bits_asks_a_base_in_4(base, monkeypatch, free, quantization) -> None:
    size = (base / "model.safetensors").stat().st_size
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * size), 10 * size))
    assert attach.quantization_to_answer(base, "cuda") == quantization
    assert attach.quantization_to_answer(base, "cpu") == "none"


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
        model = new_adapter(model, AdapterSettings(rank=4, alpha=8.0, targets=TARGETS))
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


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("targets", "tied"), [(("lm_head",), True), (("embed_tokens",), True), (TARGETS, False)]
)
def test_an_adapter_on_weights_that_are_used_twice_is_seen(base, targets, tied) -> None:
    model = new_adapter(attach.load_model(base, torch.float32, "cpu"), AdapterSettings(4, 8.0, targets, 0.0))
    assert attach.changes_tied(model) == tied
    model.config.tie_word_embeddings = False
    assert not attach.changes_tied(model)
