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


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_a_precision_that_is_named_is_taken(precision, dtype) -> None:
    assert attach.pick_dtype(precision, "cpu") == dtype


def test_a_cpu_never_computes_in_float16_of_its_own_accord() -> None:
    assert attach.pick_dtype("auto", "cpu") in {torch.float32, torch.bfloat16}


def test_four_bit_weights_train_on_a_cpu_or_say_what_is_missing(base) -> None:
    try:
        model = attach.load_model(base, torch.float32, "cpu", "nf4")
    except (MissingExtraError, BaseModelError) as error:
        assert "bitsandbytes" in str(error) or "cannot be loaded" in str(error)  # noqa: PT017
        return
    plain = _logits(attach.load_model(base, torch.float32, "cpu"))
    error = (_logits(model) - plain).norm() / plain.norm()
    assert 1e-3 < error < 0.5, "four bits lose something, not everything"
    model = new_adapter(model, AdapterSettings(rank=4, alpha=8.0, targets=TARGETS))
    model(input_ids=IDS, labels=IDS).loss.backward()
    gradients = [value.grad for name, value in model.named_parameters() if "lora_B" in name]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert any(bool(gradient.any()) for gradient in gradients)


def test_without_bitsandbytes_the_way_out_is_said(base, monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("no bitsandbytes")

    monkeypatch.setattr(attach, "_nf4", missing)
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
