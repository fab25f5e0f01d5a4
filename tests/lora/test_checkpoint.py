"""Training state on disk: whole or not there, damaged ones passed over, random numbers put back."""

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from factory import store
from factory.lora import checkpoint
from factory.lora.checkpoint import KEPT, Progress


def _optimizer(model) -> torch.optim.AdamW:
    return torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-3)


def _train_a_step(model, optimizer) -> None:
    sum((value**2).sum() for value in model.parameters() if value.requires_grad).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_was_saved_comes_back(new_model, tmp_path: Path) -> None:
    model = new_model(trained=True)
    optimizer = _optimizer(model)
    _train_a_step(model, optimizer)
    progress = Progress(
        step=7,
        epoch=1,
        batch=3,
        best_recall=0.5,
        best_step=4,
        seconds=1.5,
        history=[{"loss": 2.0}],
        micro_batch=4,
        halvings=1,
        preflight={"labels": {"rows": 9.0}},
    )
    checkpoint.save(tmp_path, model, optimizer, progress)
    drawn = (torch.rand(3), np.random.rand(3), random.random())
    again = new_model()
    other = _optimizer(again)
    assert checkpoint.load_newest(tmp_path, again, other) == progress
    assert torch.equal(torch.rand(3), drawn[0])
    assert (np.random.rand(3) == drawn[1]).all()
    assert random.random() == drawn[2]
    for one, two in zip(
        checkpoint.trained_state(model).values(), checkpoint.trained_state(again).values(), strict=True
    ):
        assert torch.equal(one, two)
    for (_, one), (_, two) in zip(optimizer.state.items(), other.state.items(), strict=True):
        assert torch.equal(one["exp_avg"], two["exp_avg"])
        assert one["step"] == two["step"]


def test_only_the_adapter_is_kept(new_model) -> None:
    assert all("lora_" in name for name in checkpoint.trained_state(new_model()))


def test_the_oldest_go(new_model, tmp_path: Path) -> None:
    model = new_model()
    for step in (1, 2, 3, 12):
        checkpoint.save(tmp_path, model, _optimizer(model), Progress(step=step))
    assert KEPT == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000012"]


def test_nothing_saved_is_nothing_found(new_model, tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path, new_model(), None) is None
    assert checkpoint.load_newest(tmp_path / "missing", new_model(), None) is None


def _truncate(folder: Path) -> None:
    data = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(data[: len(data) // 2])


def _flip(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)


def _empty_sum(folder: Path) -> None:
    (folder / "sha256.json").write_text("")


def _no_sum(folder: Path) -> None:
    (folder / "sha256.json").unlink()


def _no_state(folder: Path) -> None:
    (folder / "state.pt").unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty_sum, _no_sum, _no_state])
def test_a_damaged_one_is_passed_over_with_a_warning(new_model, tmp_path: Path, caplog, damage) -> None:
    model = new_model()
    optimizer = _optimizer(model)
    for step in (1, 2):
        checkpoint.save(tmp_path, model, optimizer, Progress(step=step))
    damage(tmp_path / "step-000002")
    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_newest(tmp_path, model, optimizer)
    assert found is not None
    assert found.step == 1
    assert "step-000002 is damaged" in caplog.text
    damage(tmp_path / "step-000001")
    assert checkpoint.load_newest(tmp_path, model, optimizer) is None


class _Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self):
        return Path.write_text, (self._target, "ran")


def test_a_state_from_elsewhere_runs_nothing(new_model, tmp_path: Path, caplog) -> None:
    model = new_model()
    optimizer = _optimizer(model)
    folder = tmp_path / "checkpoints"
    for step in (1, 2):
        checkpoint.save(folder, model, optimizer, Progress(step=step))
    state = folder / "step-000002" / "state.pt"
    torch.save({"trained": {}, "evil": _Payload(tmp_path / "ran")}, state)
    store.write_json(state.with_name("sha256.json"), {"state.pt": store.hash_file(state)})
    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_newest(folder, model, optimizer)

    assert not (tmp_path / "ran").exists()
    assert found is not None
    assert found.step == 1
    assert "step-000002 is damaged" in caplog.text


def test_what_a_kill_left_half_written_is_not_looked_at(new_model, tmp_path: Path) -> None:
    model = new_model()
    (tmp_path / ".step-000009.tmp").mkdir()
    (tmp_path / ".step-000009.tmp" / "state.pt").write_bytes(b"half")
    checkpoint.save(tmp_path, model, _optimizer(model), Progress(step=2))
    found = checkpoint.load_newest(tmp_path, model, _optimizer(model))
    assert found is not None
    assert found.step == 2


def test_a_damaged_one_is_replaced_when_training_gets_there_again(new_model, tmp_path: Path) -> None:
    model = new_model()
    optimizer = _optimizer(model)
    for step in (1, 2):
        checkpoint.save(tmp_path, model, optimizer, Progress(step=step))
    _flip(tmp_path / "step-000002")
    for step in (1, 2):
        checkpoint.save(tmp_path, model, optimizer, Progress(step=step))
    found = checkpoint.load_newest(tmp_path, model, optimizer)
    assert found is not None
    assert found.step == 2
