"""How A and B begin: from the weights, from what four bits lost of them, from the inputs of some rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from factory.errors import TrainError
from factory.lora import attach, initial
from factory.lora.adapter import AdapterSettings, adapted_layers, beginning, new_adapter, save_adapter
from factory.weights.merged import load_adapted
from tests.lora.conftest import TARGETS
from tests.tiny import TINY_NAME

IDS = torch.tensor([[1, 40, 50, 60, 70, 2]])
SETTINGS = AdapterSettings(rank=8, alpha=32.0, targets=TARGETS)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def begin(base, encoded) -> Callable[..., Any]:
    """Return a function that puts a new adapter on the base."""

    def go(dtype: torch.dtype = torch.float32, quantization: str = "none", **method: Any) -> Any:
        attach.seed_everything(3)
        model = attach.load_model(base, dtype, "cpu", quantization)
        return new_adapter(model, replace(SETTINGS, **method), base=base, rows=encoded)

    return go


def test_pissa_takes_the_principal_part_and_leaves_the_sum(base, begin) -> None:
    exact = attach.load_model(base, torch.float32, "cpu")
    model = begin(init="pissa")
    assert (_logits(model) - _logits(exact)).abs().max() < 1e-4
    _, layer = next(adapted_layers(model))
    weight = exact.model.layers[0].self_attn.q_proj.weight
    taken = layer.get_delta_weight("default")
    best = torch.linalg.svdvals(weight)[:8].square().sum().sqrt()
    assert taken.norm() > 0.98 * best, "eight ranks hold nearly all that eight can"
    assert torch.allclose(layer.get_base_layer().weight + taken, weight, atol=1e-6)


def test_pissa_in_bfloat16_loses_no_more_than_the_types_rounding(base, begin) -> None:
    model = begin(torch.bfloat16, init="pissa")
    assert {value.dtype for name, value in model.named_parameters() if "lora_" not in name} == {
        torch.bfloat16
    }
    weight = attach.load_model(base, torch.bfloat16, "cpu").model.layers[0].self_attn.q_proj.weight.float()
    _, layer = next(adapted_layers(model))
    assert layer.lora_A["default"].weight.dtype == torch.float32
    whole = (
        layer.get_base_layer().weight.float()
        + 4.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    assert (whole - weight).abs().max() <= 2**-8 * weight.abs().max()


@pytest.fixture
def begin_in_four_bits(begin) -> Callable[..., Any]:
    pytest.importorskip("bitsandbytes")
    return lambda init, **method: begin(quantization="nf4", init=init, **method)


def test_loftq_brings_back_a_part_of_what_four_bits_lost(base, begin_in_four_bits) -> None:
    exact = _logits(attach.load_model(base, torch.float32, "cpu"))
    lost, left = ((_logits(begin_in_four_bits(init)) - exact).norm() for init in ("default", "loftq"))
    assert left < 0.8 * lost


def test_loftq_saved_at_once_is_the_plain_base(base, begin_in_four_bits, tmp_path) -> None:
    model = begin_in_four_bits("loftq")
    save_adapter(model, tmp_path, TINY_NAME, beginning(model, replace(SETTINGS, init="loftq")))
    exact = _logits(attach.load_model(base, torch.float32, "cpu"))
    assert (_logits(load_adapted(base, tmp_path)) - exact).abs().max() < 1e-4


@pytest.mark.parametrize("init", ["pissa", "loftq"])
def test_a_rank_that_a_matrix_does_not_have_is_refused(begin, begin_in_four_bits, init: str) -> None:
    make = begin_in_four_bits if init == "loftq" else begin
    make(init=init, rank=32)
    with pytest.raises(
        TrainError, match=rf"{init}.*'model\.layers\.0\.self_attn\.k_proj'.*no more than 32 .* 33"
    ):
        make(init=init, rank=33)


def test_eva_points_a_where_the_inputs_vary_and_changes_no_answer(base, begin) -> None:
    model = begin(init="eva")
    assert torch.equal(_logits(model), _logits(attach.load_model(base, torch.float32, "cpu")))
    layers = dict(adapted_layers(model))
    assert sum(layer.r["default"] for layer in layers.values()) == 8 * 2 * len(TARGETS)
    assert len({layer.r["default"] for layer in layers.values()}) > 1, "ranks go where they say more"
    for layer in layers.values():
        a = layer.lora_A["default"].weight
        assert torch.allclose(a @ a.t(), torch.eye(len(a)), atol=1e-4)
        assert a.dtype == torch.float32
        assert a.requires_grad
    assert (
        begin(torch.bfloat16, init="eva")
        .get_base_model()
        .model.layers[0]
        .self_attn.q_proj.lora_A["default"]
        .weight.dtype
        == torch.float32
    )


def test_eva_with_too_few_rows_or_no_settled_directions_says_so(base, encoded, begin, monkeypatch) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    with pytest.raises(TrainError, match="needs rows of 200 tokens, the dataset has"):
        new_adapter(model, replace(SETTINGS, init="eva", rank=100), rows=encoded[:2])
    monkeypatch.setattr(initial, "EVA_PASSES", 1)
    with pytest.raises(TrainError, match="no 8 settled directions in 1 passes"):
        begin(init="eva")
