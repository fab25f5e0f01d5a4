"""What is used on which GPU, with stand-ins for what is not installed; that layers compute the same afterwards."""

from types import SimpleNamespace

import pytest
import torch

from factory.lora import kernels


@pytest.fixture
def machine(monkeypatch):
    """Return a function that stands in for a GPU and what is installed, and notes what was done to the model."""

    def make(*, liger: bool, flash: bool, capability: tuple[int, int] = (8, 0)) -> list[object]:
        done: list[object] = []
        monkeypatch.setattr(kernels, "is_liger_kernel_available", lambda: liger)
        monkeypatch.setattr(kernels, "is_flash_attn_2_available", lambda: flash)
        monkeypatch.setattr(kernels, "apply_liger_kernel", lambda model, config: done.append(config))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        return done

    return make


def _model(done: list[object], kinds: list[str] | None = None) -> SimpleNamespace:
    config = SimpleNamespace(layer_types=kinds)
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config, set_attn_implementation=done.append)


def test_on_a_cpu_nothing_is_done(machine) -> None:
    done = machine(liger=True, flash=True)
    assert not kernels.speed_up(_model(done), "cpu", torch.bfloat16)
    assert done == []


def test_on_a_recent_gpu_what_is_installed_is_used(machine) -> None:
    done = machine(liger=True, flash=True)
    assert kernels.speed_up(_model(done, ["full_attention", "sliding_attention"]), "cuda", torch.bfloat16)
    assert done == [{"cross_entropy": False, "fused_linear_cross_entropy": False}, "flash_attention_2"]


@pytest.mark.parametrize(
    ("flash", "capability", "dtype", "kinds"),
    [
        (False, (9, 0), torch.bfloat16, None),
        (True, (7, 5), torch.float16, None),
        (True, (9, 0), torch.float32, None),
        (True, (9, 0), torch.bfloat16, ["full_attention", "linear_attention"]),
    ],
    ids=["not installed", "T4", "float32", "a state that runs on"],
)
def test_where_rows_cannot_be_kept_apart_they_are_padded(machine, flash, capability, dtype, kinds) -> None:
    done = machine(liger=False, flash=flash, capability=capability)
    assert not kernels.speed_up(_model(done, kinds), "cuda", dtype)
    assert done == []


def test_recomputed_activations_run_each_layer_twice_and_only_in_training(new_model) -> None:
    model = new_model()
    calls: list[bool] = []
    mlp = model.get_base_model().model.layers[0].mlp
    mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    ids = torch.tensor([[1, 40, 50, 60]])
    kernels.checkpoint_activations(model)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert len(calls) == 2
    calls.clear()
    model.eval()(input_ids=ids, labels=ids, use_cache=False)
    assert len(calls) == 1
