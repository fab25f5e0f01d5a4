"""What is known of the base's answers is true, and a penalty on it holds them without holding back what is learned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.errors import TrainError
from factory.lora.adapter import AdapterSettings, adapted_layers, new_adapter
from factory.lora.attach import load_model
from factory.lora.batches import EncodedRow
from factory.lora.checkpoint import trained_state
from factory.lora.loop import Loop, new_optimizer
from factory.lora.retention import (
    OVERSAMPLED,
    Divergence,
    Retention,
    Sketch,
    Spectrum,
    look_at_answers,
    on_device,
)
from tests.lora.conftest import TARGETS
from tests.lora.test_loop import SETTINGS, _kill_at, end_with_the_same_bits


@pytest.fixture
def model(new_model) -> Any:
    return new_model()


@pytest.fixture
def retention(model, encoded) -> Retention:
    return look_at_answers(model, encoded, "cpu", torch.float32)


def dense(spectrum: Spectrum) -> torch.Tensor:
    return spectrum.times(torch.eye(len(spectrum.directions_DK)))


def randomize(model: Any, size: float) -> None:
    source = torch.Generator().manual_seed(5)
    for name, value in trained_parameters(model).items():
        if "lora_B" in name:
            value.data = size * torch.randn(value.shape, generator=source)


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def test_a_sketch_finds_main_directions_and_the_energy_of_the_others() -> None:
    source = torch.Generator().manual_seed(1)
    spread = torch.cat([torch.linspace(40, 10, 20), torch.ones(280)])
    seen_ND = torch.randn(3000, 300, generator=source) * spread
    random_DP = torch.linalg.qr(torch.randn(300, 128 + OVERSAMPLED, generator=source)).Q
    sketch = Sketch(random_DP)
    for part in seen_ND.split(100):
        sketch.add(part)
    found, exact = dense(sketch.spectrum(3000)), seen_ND.T @ seen_ND / 3000
    assert float(found.trace()) == pytest.approx(float(exact.trace()), rel=1e-3)
    assert torch.allclose(found, found.T, atol=1e-3)
    assert float((found - exact).norm() / exact.norm()) < 0.02
    low = sketch.spectrum(3000).to("cpu", torch.bfloat16)
    assert float((dense(low) - exact).norm() / exact.norm()) < 0.03
    half = sketch.spectrum(3000).to("cpu", torch.float16)
    assert float((dense(half) - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("vectors", [torch.zeros(5, 8), torch.full((5, 8), torch.inf)])
def test_a_sketch_of_nothing_is_nothing(vectors: torch.Tensor) -> None:
    sketch = Sketch(torch.eye(8))
    sketch.add(vectors)
    assert sketch.spectrum() is None


def test_a_sketch_of_few_vectors_is_theirs() -> None:
    vectors = torch.randn(3, 60, generator=torch.Generator().manual_seed(3))
    sketch = Sketch(torch.linalg.qr(torch.randn(60, 46, generator=torch.Generator().manual_seed(4))).Q)
    sketch.add(vectors)
    assert torch.allclose(dense(sketch.spectrum(3)), vectors.T @ vectors / 3, atol=1e-4)


def test_every_layer_is_looked_at_and_the_model_stays_as_it_was(new_model, encoded) -> None:
    model, untouched = new_model(dropout=0.2), new_model(dropout=0.2)
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    found = look_at_answers(model, encoded, "cpu", torch.float32)
    assert torch.equal(torch.rand(1), expected), "random numbers go on where they were"
    assert set(found) == {name for name, _ in adapted_layers(model)}
    assert model.training
    assert all(value.grad is None for value in model.parameters())
    assert all(
        torch.equal(value, trained_state(untouched)[name]) for name, value in trained_state(model).items()
    )
    again = look_at_answers(model, encoded, "cpu", torch.float32)
    assert all(torch.equal(dense(found[name].put_out), dense(again[name].put_out)) for name in found)
    assert look_at_answers(model, [], "cpu", torch.float32) == {}


def test_what_is_read_has_the_covariance_of_all_tokens(model, encoded, retention) -> None:
    name, layer = next((name, layer) for name, layer in adapted_layers(model) if name.endswith("down_proj"))
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    model.eval()
    with torch.no_grad():
        for row in encoded:  # each alone, so that none is padded
            model(input_ids=torch.tensor([row.ids]))
    hook.remove()
    read = torch.cat(seen)
    exact = read.T @ read / len(read)
    found = dense(retention[name].read)
    assert float(found.trace()) == pytest.approx(float(exact.trace()), rel=1e-3)
    energies, vectors = torch.linalg.eigh(exact)
    main = vectors[:, -3:]
    assert torch.allclose(main.T @ found @ main, torch.diag(energies[-3:]), rtol=0.02, atol=0.05)


def test_modules_that_read_the_same_share_it(retention) -> None:
    moved = on_device(retention, "cpu", torch.bfloat16)
    for found in (retention, moved):
        attention = [found[f"model.layers.1.self_attn.{leaf}_proj"].read for leaf in "qkv"]
        assert attention[0] is attention[1] is attention[2]
        assert found["model.layers.1.mlp.gate_proj"].read is found["model.layers.1.mlp.up_proj"].read
        assert attention[0] is not found["model.layers.1.mlp.gate_proj"].read


@pytest.mark.parametrize("target", ["down_proj", "o_proj", "q_proj", "gate_proj"])
def test_the_divergence_is_that_of_the_answers_where_the_change_is_small(
    base, tokenizer, encoded, target: str
) -> None:
    settings = AdapterSettings(rank=4, alpha=8, targets=(target,), layers=(1,))
    model = new_adapter(load_model(base, torch.float32, "cpu"), settings)
    rows = [row for row in encoded if row.ids]
    penalty = Divergence(model, look_at_answers(model, rows * 8, "cpu", torch.float32), 1.0)
    assert penalty.nats() == 0
    randomize(model, 0.02)
    expected, tokens = 0.0, 0
    model.eval()
    with torch.no_grad():
        for row in rows:
            spoken = torch.tensor(row.labels[1:]) >= 0
            changed = model(input_ids=torch.tensor([row.ids])).logits[0, :-1][spoken].log_softmax(-1)
            with model.disable_adapter():
                plain = model(input_ids=torch.tensor([row.ids])).logits[0, :-1][spoken].log_softmax(-1)
            expected += float((plain.exp() * (plain - changed)).sum())
            tokens += int(spoken.sum())
    assert 0.5 < penalty.nats() / (expected / tokens) < 2, "as near as taking x and g apart comes"


@pytest.mark.parametrize("begun", [False, True])
def test_gradients_are_those_of_the_divergence(model, encoded, begun: bool) -> None:
    if begun:
        randomize(model, 0.1)
    retention = look_at_answers(model, encoded, "cpu", torch.float32)
    penalty = Divergence(model, retention, 3.0)
    randomize(model, 0.2)
    if begun:
        assert penalty.nats() > 0
    parameters = trained_parameters(model)
    for value in parameters.values():
        value.grad = torch.ones_like(value)
    penalty.add_gradients()
    source = torch.Generator().manual_seed(6)
    for part in ("lora_A", "lora_B"):
        moves = {
            name: 1e-3 * torch.randn(value.shape, generator=source)
            for name, value in parameters.items()
            if part in name
        }
        expected = sum(float(((parameters[n].grad - 1) * move).sum()) for n, move in moves.items())
        values = []
        for sign in (1, -2):
            for name, move in moves.items():
                parameters[name].data += sign * move
            values.append(3.0 * penalty.nats())
        for name, move in moves.items():
            parameters[name].data += move
        assert values[0] - values[1] == pytest.approx(2 * expected, rel=0.01)


def test_what_an_adapter_began_with_is_no_change(model, encoded) -> None:
    randomize(model, 0.1)
    penalty = Divergence(model, look_at_answers(model, encoded, "cpu", torch.float32), 1.0)
    assert penalty.nats() == pytest.approx(0, abs=1e-6)


def test_a_parameter_without_gradient_is_left_alone(model, retention) -> None:
    randomize(model, 0.1)
    Divergence(model, retention, 1.0).add_gradients()
    assert all(value.grad is None for value in model.parameters())


def test_an_optimizer_adds_it_before_it_clips(model, retention) -> None:
    randomize(model, 0.1)
    settings = replace(SETTINGS, max_gradient_norm=1e9)
    optimizer = new_optimizer(model, settings, {}, Divergence(model, retention, 100.0))
    value = next(value for name, value in trained_parameters(model).items() if "lora_B" in name)
    for parameter in trained_parameters(model).values():
        parameter.grad = torch.zeros_like(parameter)
    before = value.detach().clone()
    optimizer.step(1e-3)
    assert not torch.equal(value, before), "nothing but the penalty moves it"
    assert float((value.detach() - before).flatten() @ before.flatten()) < 0, "towards what it was"


def train(model: Any, rows: list[EncodedRow], folder: Path, penalty: Divergence | None) -> float:
    settings = replace(SETTINGS, epochs=12, learning_rate=5e-3)
    losses: list[float] = []
    Loop(
        model, 0, rows, settings, folder, lambda: 0.0,
        lambda row: losses.append(row["loss"]) if "loss" in row else None, penalty=penalty,
    ).run()  # fmt: skip
    return losses[-1]


def test_a_run_with_it_changes_general_answers_less_and_learns_as_much(
    new_model, encoded, tmp_path: Path
) -> None:
    taught, general = encoded[:12], encoded[12:]
    plain, held = new_model(), new_model()
    found = look_at_answers(plain, general, "cpu", torch.float32)
    plain_loss = train(plain, taught, tmp_path / "plain", None)
    held_loss = train(held, taught, tmp_path / "held", Divergence(held, found, 5.0))
    changed, kept = (Divergence(model, found, 1.0).nats() for model in (plain, held))
    assert kept < changed / 2
    assert held_loss < plain_loss + 0.5


def test_a_run_that_was_killed_ends_with_the_same_bits(new_model, encoded, tmp_path: Path) -> None:
    def loop(name: str, kill_at: int) -> Loop:
        model = new_model()
        penalty = Divergence(model, look_at_answers(model, encoded, "cpu", torch.float32), 5.0)
        settings = replace(SETTINGS, checkpoint_seconds=1e-9)
        return Loop(
            model, 0, encoded, settings, tmp_path / name, lambda: 0.0, _kill_at(kill_at), penalty=penalty
        )

    end_with_the_same_bits(loop)


def test_a_beginning_that_is_no_change_is_none_in_low_precision_too(base, encoded) -> None:
    model = new_adapter(
        load_model(base, torch.float32, "cpu"),
        AdapterSettings(rank=4, alpha=8, targets=TARGETS, init="pissa"),
    )
    low = on_device(look_at_answers(model, encoded, "cpu", torch.float32), "cpu", torch.bfloat16)
    assert all(kept.begun is not None for kept in low.values())
    held = Divergence(model, low, 1.0)
    for value in trained_parameters(model).values():
        value.grad = torch.zeros_like(value)
    held.add_gradients()
    assert held.nats() == 0
    assert not any(value.grad.any() for value in trained_parameters(model).values())


def test_dora_has_nothing_to_be_held_by(base, encoded) -> None:
    settings = AdapterSettings(rank=4, alpha=8, targets=TARGETS, variant="dora")
    model = new_adapter(load_model(base, torch.float32, "cpu"), settings)
    assert look_at_answers(model, encoded, "cpu", torch.float32) == {}


def test_answers_that_are_not_finite_are_refused(model, encoded) -> None:
    with torch.no_grad():
        model.get_base_model().model.norm.weight.fill_(float("inf"))
    with pytest.raises(TrainError, match="not finite in float32"):
        look_at_answers(model, encoded, "cpu", torch.float32)


def test_energies_far_apart_hold_in_float16() -> None:
    vectors_DK = torch.linalg.qr(torch.randn(64, 3, generator=torch.Generator().manual_seed(2))).Q
    exact = Spectrum(vectors_DK * torch.tensor([1.0, 1e-4, 1e-7]).sqrt(), 1e6, 0.0)
    half = exact.to("cpu", torch.float16)
    main, other, _ = half.times(1e-6 * vectors_DK.T)
    assert float(main.norm()) == pytest.approx(1, rel=0.01)
    assert float(vectors_DK[:, 1] @ other) == pytest.approx(1e-4, rel=0.01)


def test_a_sketch_of_single_numbers_is_their_energy() -> None:
    sketch = Sketch(torch.ones(1, 1))
    sketch.add(torch.tensor([[1.0], [3.0]]))
    found = sketch.spectrum()
    assert found is not None
    assert float(found.times(torch.ones(1, 1))) == pytest.approx(5.0)


def test_a_step_that_overflows_is_left_out_to_the_bit(model, retention) -> None:
    randomize(model, 0.1)
    settings = replace(SETTINGS, dtype=torch.float16)
    optimizer = new_optimizer(model, settings, {}, Divergence(model, retention, 100.0))
    before = {name: value.detach().clone() for name, value in trained_parameters(model).items()}
    optimizer.backward(
        torch.inf * torch.stack([value.sum() for value in trained_parameters(model).values()]).sum()
    )
    optimizer.step(1e-3)
    assert all(torch.equal(value, before[name]) for name, value in trained_parameters(model).items())
    optimizer.backward(torch.stack([value.sum() for value in trained_parameters(model).values()]).sum())
    optimizer.step(1e-3)
    assert not any(torch.equal(value, before[name]) for name, value in trained_parameters(model).items())
