"""AdamW as torch's own, gradients clipped; float16 losses are scaled and a step that overflows is left out."""

import importlib
from copy import deepcopy

import pytest
import torch

from factory.errors import MissingExtraError, TrainError
from factory.lora.optimizer import Optimizer


def _parameters(size: int = 6) -> list[torch.nn.Parameter]:
    torch.manual_seed(2)
    return [torch.nn.Parameter(torch.randn(size, 4)), torch.nn.Parameter(torch.randn(4))]


def _optimizer(parameters, kind="adamw", dtype=torch.float32, max_gradient_norm=1.0) -> Optimizer:
    return Optimizer(
        [{"params": parameters, "factor": 1.0}],
        kind,
        weight_decay=0.1,
        max_gradient_norm=max_gradient_norm,
        dtype=dtype,
        device="cpu",
    )


def _loss(parameters: list[torch.nn.Parameter], size: float = 1.0) -> torch.Tensor:
    matrix, vector = parameters
    return size * ((matrix @ vector).sin().sum() + matrix.square().sum())


def _train(parameters, optimizer, steps: int = 5) -> None:
    for step in range(steps):
        optimizer.backward(_loss(parameters))
        optimizer.step(0.01 * (step + 1))


def test_steps_are_torchs_own_with_clipped_gradients() -> None:
    ours, plain = _parameters(), _parameters()
    _train(ours, _optimizer(ours))
    adamw = torch.optim.AdamW(plain, weight_decay=0.1)
    for step in range(5):
        _loss(plain).backward()
        torch.nn.utils.clip_grad_norm_(plain, 1.0)
        adamw.param_groups[0]["lr"] = 0.01 * (step + 1)
        adamw.step()
        adamw.zero_grad()
    for one, other in zip(ours, plain, strict=True):
        assert (one - other).abs().max() < 1e-6
        assert one.grad is None


def test_a_scaled_loss_trains_as_an_unscaled_one() -> None:
    half, single = _parameters(), _parameters()
    optimizer = _optimizer(half, dtype=torch.float16)
    optimizer.backward(_loss(half))
    _loss(single).backward()
    assert half[0].grad.norm() > 1000 * single[0].grad.norm(), "what is small must not vanish on the way"
    single[0].grad = single[1].grad = None
    optimizer.step(0.0)
    half = _parameters()
    _train(half, _optimizer(half, dtype=torch.float16))
    _train(single, _optimizer(single))
    assert all((one - other).abs().max() < 1e-6 for one, other in zip(half, single, strict=True))


def test_a_step_that_overflows_changes_nothing_and_the_next_scale_is_half() -> None:
    parameters = _parameters()
    optimizer = _optimizer(parameters, dtype=torch.float16)
    before = [value.detach().clone() for value in parameters]
    scale = optimizer.state_dict()["scaler"]["scale"]
    optimizer.backward(_loss(parameters, 1e36))
    assert not parameters[0].grad.isfinite().all()
    optimizer.step(0.1)
    assert all(torch.equal(one, other) for one, other in zip(parameters, before, strict=True))
    assert optimizer.state_dict()["scaler"]["scale"] == scale / 2
    optimizer.backward(_loss(parameters))
    optimizer.step(0.1)
    assert not torch.equal(parameters[0], before[0])
    assert all(value.isfinite().all() for value in parameters)


def test_steps_that_never_count_end_the_run_with_what_to_do() -> None:
    parameters = _parameters()
    optimizer = _optimizer(parameters, dtype=torch.float16)

    def overflow(steps: int) -> None:
        for _ in range(steps):
            optimizer.backward(_loss(parameters, float("inf")))
            optimizer.step(0.1)

    overflow(26)
    with pytest.raises(TrainError, match=r"not finite.*train\.precision"):
        overflow(1)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("adamw", torch.float32), ("adamw", torch.float16), ("paged_adamw_8bit", torch.float32)],
)
def test_state_put_back_goes_on_as_if_nothing_had_happened(kind, dtype) -> None:
    if kind != "adamw":
        pytest.importorskip("bitsandbytes")
    straight, broken = _parameters(2048), _parameters(2048)
    optimizer = _optimizer(straight, kind, dtype)
    optimizer.backward(_loss(straight, 1e36 if dtype == torch.float16 else 1.0))  # halves the scale
    optimizer.step(0.1)
    for one, other in zip(broken, straight, strict=True):
        one.data.copy_(other)
    resumed = _optimizer(broken, kind, dtype)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    assert resumed.state_dict()["scaler"] == optimizer.state_dict()["scaler"]
    _train(straight, optimizer)
    _train(broken, resumed)
    assert all(torch.equal(one, other) for one, other in zip(straight, broken, strict=True))


def _has_bytes(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_bytes(part) for part in value.values())
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_eight_bit_moments_train_nearly_as_well_on_a_cpu() -> None:
    pytest.importorskip("bitsandbytes")
    losses = {}
    for kind in ("adamw", "paged_adamw_8bit"):
        parameters = _parameters(2048)  # 4096 numbers and more have 8-bit moments
        optimizer = _optimizer(parameters, kind)
        _train(parameters, optimizer, steps=20)
        losses[kind] = _loss(parameters).item()
        assert _has_bytes(optimizer.state_dict()["state"]) == (kind != "adamw")
    start = _loss(_parameters(2048)).item()
    assert losses["adamw"] < 0.5 * start
    assert losses["paged_adamw_8bit"] == pytest.approx(losses["adamw"], rel=0.05)


def test_without_bitsandbytes_the_way_out_is_said(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"paged_adamw_8bit.*pip install"):
        _optimizer(_parameters(), "paged_adamw_8bit")
