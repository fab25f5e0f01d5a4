"""Directions of inputs are the true ones, and an optimizer given them takes the steps of A' in A = A'S."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.lora.adapter import adapted_layers
from factory.lora.checkpoint import trained_state
from factory.lora.loop import Loop
from factory.lora.optimizer import Optimizer
from factory.lora.whitening import DAMPING, Directions, begin_whitened, look_at_inputs
from tests.lora.test_loop import SETTINGS, _kill_at, end_with_the_same_bits


@pytest.fixture
def model(new_model) -> Any:
    return new_model()


@pytest.fixture
def directions(model, encoded) -> dict[str, Directions]:
    return look_at_inputs(model, encoded, "cpu", torch.float32)


def dense(directions: Directions) -> torch.Tensor:
    return directions.scale_(torch.eye(len(directions.vectors_DK)))


def test_every_a_gets_directions_and_the_model_stays_as_it_was(new_model, encoded) -> None:
    model, untouched = new_model(dropout=0.2), new_model(dropout=0.2)
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    found = look_at_inputs(model, encoded, "cpu", torch.float32)
    assert torch.equal(torch.rand(1), expected), "random numbers go on where they were"
    assert set(found) == {name for name, _ in model.named_parameters() if "lora_A" in name}
    assert model.training
    assert all(
        torch.equal(value, trained_state(untouched)[name]) for name, value in trained_state(model).items()
    )
    again = look_at_inputs(model, encoded, "cpu", torch.float32)
    assert all(torch.equal(dense(found[name]), dense(again[name])) for name in found)


def test_they_are_those_of_the_covariance_of_what_the_layer_reads(model, encoded, directions) -> None:
    name, layer = next((name, layer) for name, layer in adapted_layers(model) if name.endswith("down_proj"))
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    model.eval()
    with torch.no_grad():
        for row in encoded:  # all of them fit: each alone, so that none is padded
            model(input_ids=torch.tensor([row.ids]))
    hook.remove()
    read = torch.cat(seen)
    (found,) = (value for key, value in directions.items() if f"{name}.lora_A" in key)
    energies, vectors = torch.linalg.eigh(read.T @ read)
    relative, vectors = (energies / energies.mean()).flip(0), vectors.flip(1)
    count = found.vectors_DK.shape[1]
    for place in range(3):  # those well apart from the next
        assert abs(float(vectors[:, place] @ found.vectors_DK[:, place])) == pytest.approx(1, abs=1e-3)
        assert float(found.scales_K[place]) == pytest.approx(
            float(relative[place] + DAMPING) ** -0.5, rel=1e-3
        )
    assert found.rest == pytest.approx((float(relative[count:].mean()) + DAMPING) ** -0.5, rel=0.03)


@pytest.mark.parametrize("num_rows", [1, 24])
def test_they_are_found_in_float32_where_the_model_computes_in_less(
    new_model, encoded, num_rows: int
) -> None:
    rows = encoded[:num_rows]
    model = new_model()
    exact, found = (look_at_inputs(model, rows, "cpu", dtype) for dtype in (torch.float32, torch.bfloat16))
    assert found.keys() == exact.keys() != set()
    for name, by in found.items():
        assert by.vectors_DK.dtype == by.scales_K.dtype == torch.float32
        gram = by.vectors_DK.T @ by.vectors_DK
        assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-5), "of length one and at right angles"
        assert by.rest == pytest.approx(exact[name].rest, rel=0.05)
    begin_whitened(model, found)


def test_modules_that_read_the_same_share_them(directions) -> None:
    def of(leaf: str) -> Directions:
        return next(value for name, value in directions.items() if f"layers.1.{leaf}.lora_A" in name)

    assert of("self_attn.q_proj") is of("self_attn.k_proj") is of("self_attn.v_proj")
    assert of("mlp.gate_proj") is of("mlp.up_proj")
    assert of("self_attn.q_proj") is not of("mlp.gate_proj")


def test_scaled_inputs_lie_in_all_directions_nearly_alike() -> None:
    from factory.lora.whitening import _directions

    spread = torch.tensor([100.0] * 2 + [10.0] * 6 + [1.0] * 24)
    read = torch.randn(4000, 32, generator=torch.Generator().manual_seed(1)) * spread
    found = _directions(read)
    assert found is not None
    before, after = (
        torch.linalg.eigvalsh(torch.cov(inputs.T)) for inputs in (read, found.scale_(read.clone()))
    )
    assert before[-1] / before[-8] > 80
    assert after[-1] / after[-8] < 6, (
        "the damping leaves directions of less than a twentieth of the mean behind"
    )
    assert torch.allclose(dense(found), dense(found).T, atol=1e-6)
    assert _directions(read[:3]) is None
    assert _directions(torch.zeros(100, 32)) is None


def optimizer(
    value: torch.nn.Parameter, scaled: list[tuple[torch.Tensor, Directions]], norm: float
) -> Optimizer:
    return Optimizer(
        [{"params": [value], "factor": 2.0}],
        "adamw",
        weight_decay=0.1,
        max_gradient_norm=norm,
        dtype=torch.float32,
        device="cpu",
        scaled=scaled,
    )


@pytest.mark.parametrize("norm", [1e9, 1e-2])
def test_steps_are_those_of_the_other_factor(directions, norm: float) -> None:
    by = next(iter(directions.values()))
    source = torch.Generator().manual_seed(2)
    first = torch.randn(4, len(by.vectors_DK), generator=source)
    other = torch.nn.Parameter(first.clone())  # A'
    value = torch.nn.Parameter(by.scale_(first.clone()))  # A
    plain, whitened = optimizer(other, [], norm), optimizer(value, [(value, by)], norm)
    for _ in range(5):
        gradient = torch.randn(value.shape, generator=source)
        value.grad, other.grad = gradient.clone(), by.scale_(gradient.clone())
        whitened.step(1e-2)
        plain.step(1e-2)
        assert torch.allclose(value, by.scale_(other.detach().clone()), atol=1e-5)
    assert not torch.allclose(value, by.scale_(first.clone()), atol=1e-2)


def test_parameters_that_share_directions_step_as_each_alone(directions) -> None:
    by = next(iter(directions.values()))
    source = torch.Generator().manual_seed(2)
    first = [torch.randn(rows, len(by.vectors_DK), generator=source) for rows in (4, 2, 3)]
    gradients = [torch.randn(value.shape, generator=source) for value in first]
    together, alone = ([torch.nn.Parameter(value.clone()) for value in first] for _ in range(2))
    for value, gradient in zip([*together, *alone], gradients * 2, strict=True):
        value.grad = gradient.clone()
    group = [{"params": together, "factor": 2.0}]
    settings = {"weight_decay": 0.1, "max_gradient_norm": 1e9, "dtype": torch.float32, "device": "cpu"}
    Optimizer(group, "adamw", scaled=[(value, by) for value in together], **settings).step(1e-2)
    for value in alone:
        optimizer(value, [(value, by)], 1e9).step(1e-2)
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_parameter_without_gradient_is_left_alone(directions) -> None:
    by = next(iter(directions.values()))
    value = torch.nn.Parameter(torch.ones(4, len(by.vectors_DK)))
    optimizer(value, [(value, by)], 1.0).step(1e-2)
    assert torch.equal(value, torch.ones_like(value))


def test_a_step_that_overflows_is_left_out_to_the_bit(directions) -> None:
    by = next(iter(directions.values()))
    value = torch.nn.Parameter(torch.rand(4, len(by.vectors_DK)))
    before = value.detach().clone()
    half = Optimizer(
        [{"params": [value], "factor": 1.0}],
        "adamw",
        weight_decay=0.1,
        max_gradient_norm=1.0,
        dtype=torch.float16,
        device="cpu",
        scaled=[(value, by)],
    )
    half.backward(value.sum() * torch.inf)
    half.step(1e-2)
    assert torch.equal(value, before)
    half.backward(value.sum())
    half.step(1e-2)
    assert not torch.equal(value, before)


def test_a_fresh_a_begins_scaled_and_b_stays_zero(new_model, encoded) -> None:
    model, plain = new_model(), new_model()
    found = look_at_inputs(model, encoded, "cpu", torch.float32)
    begin_whitened(model, found)
    begun = dict(plain.named_parameters())
    for name, value in model.named_parameters():
        if name in found:
            assert torch.equal(value, found[name].scale_(begun[name].detach().clone()))
        else:
            assert torch.equal(value, begun[name])


def test_a_run_that_was_killed_ends_with_the_same_bits(new_model, encoded, tmp_path: Path) -> None:
    def loop(name: str, kill_at: int) -> Loop:
        model = new_model()
        found = look_at_inputs(model, encoded, "cpu", torch.float32)
        begin_whitened(model, found)
        settings = replace(SETTINGS, checkpoint_seconds=1e-9)
        return Loop(
            model, 0, encoded, settings, tmp_path / name, lambda: 0.0, _kill_at(kill_at), whitening=found
        )

    expected = end_with_the_same_bits(loop)
    unscaled = Loop(new_model(), 0, encoded, SETTINGS, tmp_path / "plain", lambda: 0.0, lambda row: None)
    unscaled.run()
    assert not any(
        torch.equal(value, expected[name]) for name, value in trained_state(unscaled.model).items()
    )
