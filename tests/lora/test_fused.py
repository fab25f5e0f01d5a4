"""Linear layers with adapters as one matrix: numbers worked out by hand, and what other models are left alone."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from factory.lora.fused import Group, is_supported

DTYPE = torch.float32


def _linear(rows: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    linear = nn.Linear(len(rows[0]), len(rows), bias=bias is not None)
    linear.weight.data = torch.tensor(rows)
    if bias:
        linear.bias.data = torch.tensor(bias)
    return linear


def _adapted(base: nn.Linear, a: list[list[float]], b: list[list[float]], scale: float) -> SimpleNamespace:
    """Return what of a peft layer is read: its base, the two matrices and their scale."""
    return SimpleNamespace(
        base_layer=base,
        lora_A={"default": _linear(a)},
        lora_B={"default": _linear(b)},
        scaling={"default": scale},
    )


def _fill(group: Group, rows: list[list[float]]) -> torch.Tensor:
    x = torch.tensor(rows, dtype=group.weight.dtype)
    room = group.room(x)
    room[:, : group.width] = x
    return room


def _mixed() -> Group:
    """Return y = (x1 + 2 x2, x1 - x2) of which only the second row has an adapter: 2 * 3 (x1 - x2)."""
    plain = _linear([[1.0, 2.0]])
    return Group([plain, _adapted(_linear([[1.0, -1.0]]), [[1.0, -1.0]], [[3.0]], 2.0)], DTYPE)


def test_an_adapter_counts_from_the_refresh_and_for_its_own_rows_only() -> None:
    group = _mixed()
    assert (group.width, group.ranks, len(group.parameters)) == (2, 1, 2)
    assert group.room(torch.zeros(5, 2)).shape == (5, 3)
    assert group.forward(_fill(group, [[3.0, 4.0]])).tolist() == [[11.0, -1.0]]
    group.refresh()
    assert group.forward(_fill(group, [[3.0, 4.0]])).tolist() == [[11.0, -7.0]]  # -1 + 2 * 3 * (3 - 4)


def test_gradients_are_those_worked_out_by_hand() -> None:
    group = _mixed()
    group.refresh()
    x = _fill(group, [[3.0, 4.0]])
    group.forward(x)
    dx, (da, db) = group.backward(torch.tensor([[10.0, 1.0]]), x)
    assert dx.tolist() == [[10.0 + 1.0 + 6.0, 20.0 - 1.0 - 6.0]]
    assert da.tolist() == [[2 * 3 * 3.0, 2 * 3 * 4.0]]  # scale, B, x
    assert db.tolist() == [[2 * (3.0 - 4.0)]]


def test_without_adapters_it_is_the_plain_layer_with_its_bias() -> None:
    group = Group([_linear([[1.0, 2.0]], [5.0]), _linear([[0.0, 1.0], [4.0, 0.0]], [-1.0, 0.5])], DTYPE)
    group.refresh()
    x = _fill(group, [[3.0, 4.0]])
    assert group.forward(x).tolist() == [[16.0, 3.0, 12.5]]
    dx, gradients = group.backward(torch.tensor([[1.0, 1.0, 1.0]]), x)
    assert (dx.tolist(), gradients) == ([[5.0, 3.0]], [])


def test_the_models_queries_keys_and_values_come_out_side_by_side_and_so_do_their_gradients(
    new_model,
) -> None:
    attention = new_model(trained=True).get_base_model().model.layers[0].self_attn
    modules = [attention.q_proj, attention.k_proj, attention.v_proj]
    torch.manual_seed(0)
    x, grad = torch.randn(5, 64, requires_grad=True), torch.randn(5, 128)
    expected = torch.cat([module(x) for module in modules], dim=1)
    expected.backward(grad)
    group = Group(modules, DTYPE)
    group.refresh()
    room = _fill(group, x.tolist())
    assert (group.forward(room) - expected).abs().max() < 1e-5
    dx, gradients = group.backward(grad, room)
    assert (dx - x.grad).abs().max() < 1e-4
    assert len(gradients) == len(group.parameters) == 6
    for found, parameter in zip(gradients, group.parameters, strict=True):
        assert (found - parameter.grad).norm() <= 1e-5 * parameter.grad.norm()


def test_a_base_of_the_same_type_is_shared_and_any_other_is_copied() -> None:
    shared, copied = _linear([[1.0, 2.0]]), _linear([[1.0, 2.0]])
    group, low = Group([shared], torch.float32), Group([copied], torch.bfloat16)
    group.weight[0, 0] = low.weight[0, 0] = 7.0
    assert shared.weight.tolist() == [[7.0, 2.0]]
    assert copied.weight.tolist() == [[1.0, 2.0]]
    assert low.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "supported"),
    [
        ({}, True),
        ({"model_type": "qwen2"}, True),
        ({"model_type": "qwen3_moe"}, False),
        ({"hidden_act": "gelu"}, False),
        ({"sliding_window": 64}, False),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, True),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, True),
        ({"rope_parameters": {"rope_type": "yarn", "partial_rotary_factor": 0.5}}, False),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, False),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, False),
    ],
)
def test_a_config_that_asks_for_more_is_left_to_the_model(new_model, change: dict, supported: bool) -> None:
    model = new_model()
    vars(model.get_base_model().config).update(change)
    assert is_supported(model) is supported


def test_a_bare_base_is_computed_and_a_second_or_a_dora_adapter_is_not(new_model) -> None:
    assert is_supported(new_model().get_base_model())
    model = new_model()
    model.add_adapter("other", model.peft_config["default"])
    assert not is_supported(model)
    model = new_model()
    model.get_base_model().model.layers[1].mlp.down_proj.use_dora["default"] = True
    assert not is_supported(model)
