"""The training loop: it learns, a kill at any step changes no bit of the result, and the best state is kept."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from factory import hardware
from factory.errors import TrainError
from factory.lora import distributed, killed, threads
from factory.lora import loop as loop_module
from factory.lora.batches import IGNORED
from factory.lora.checkpoint import Progress, trained_state
from factory.lora.loop import Loop
from factory.lora.settings import LoopSettings

SETTINGS = LoopSettings(
    epochs=3,
    batch_size=5,
    micro_batch=5,
    learning_rate=5e-3,
    warmup=0.2,
    weight_decay=0.01,
    max_gradient_norm=1.0,
    recall_epochs=frozenset({1}),
    checkpoint_seconds=1e9,
    seed=11,
    pad_id=2,
    device="cpu",
    dtype=torch.float32,
)


class Killed(BaseException):
    """What stands for a kill."""


def _kill_at(step: int) -> Callable[[dict[str, float]], None]:
    def report(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Killed

    return report


def end_with_the_same_bits(loop: Callable[[str, int], Loop]) -> dict[str, torch.Tensor]:
    """Run a loop straight through, and another that is killed at a step; return what both end with.

    `loop` returns one by its name and the step it is killed at, 0 for none.
    """
    straight, resumed = loop("straight", 0), loop("killed", 0)
    straight.run()
    with pytest.raises(Killed):
        loop("killed", 4).run()
    resumed.run()
    ended, expected = trained_state(resumed.model), trained_state(straight.model)
    assert all(torch.equal(ended[name], expected[name]) for name in expected)
    return expected


@pytest.fixture
def make_loop(new_model, encoded, tmp_path):
    """Return a function that prepares a run, by default one that is never killed and recalls nothing."""

    def make(
        first_layer=0, dropout=0.0, name="run", report=lambda row: None, recall=lambda: 0.0, **settings
    ) -> Loop:
        model = new_model(first_layer, dropout)
        return Loop(
            model, first_layer, encoded, replace(SETTINGS, **settings), tmp_path / name, recall, report
        )

    return make


def _weights(loop: Loop) -> dict[str, torch.Tensor]:
    return trained_state(loop.model)


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def _losses(progress: Any) -> list[float]:
    return [row["loss"] for row in progress.history]


def test_the_loss_falls_and_the_curve_counts_every_step(make_loop) -> None:
    loop = make_loop(epochs=12)
    progress = loop.run()
    losses = _losses(progress)
    assert progress.step == loop.num_steps == len(losses) == 12 * 3
    assert [row["step"] for row in progress.history] == list(range(1, 37))
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert set(progress.history[0]) == {
        "step", "epoch", "loss", "learning_rate", "tokens_per_second", "mfu", "memory_bytes", "seconds",
    }  # fmt: skip
    assert all(0 < row["mfu"] < 2 for row in progress.history)


def test_training_makes_way_for_other_programs_and_takes_all_threads_back(make_loop, monkeypatch) -> None:
    torch.set_num_threads(4)  # the suite's own single thread is put back after each test
    monkeypatch.setattr(threads, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(hardware, "num_cores", lambda: 4)
    monkeypatch.setattr(hardware.OthersWork, "cores", lambda _: 1.0)
    seen = []
    loop = make_loop(epochs=1, report=lambda _: seen.append(torch.get_num_threads()))
    progress = loop.run(preflight=lambda: {"threads": {"taken": torch.get_num_threads()}})
    assert progress.preflight["threads"] == {"taken": 3}
    assert set(seen) == {3}
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("first_layer", [0, 1])
def test_a_run_killed_at_several_steps_ends_with_the_same_bits(make_loop, first_layer: int) -> None:
    straight = make_loop(first_layer, dropout=0.2, name="straight")
    expected = straight.run()
    for step in (2, 3, 7):
        with pytest.raises(Killed):
            make_loop(
                first_layer, dropout=0.2, name="killed", report=_kill_at(step), checkpoint_seconds=1e-9
            ).run()
    resumed = make_loop(first_layer, dropout=0.2, name="killed", checkpoint_seconds=1e-9)
    progress = resumed.run()
    assert _same(_weights(resumed), _weights(straight))
    assert _losses(progress) == _losses(expected)
    assert progress.recall == expected.recall


def test_a_damaged_newest_checkpoint_costs_steps_and_not_bits(make_loop, tmp_path: Path, caplog) -> None:
    straight = make_loop(name="straight")
    straight.run()
    with pytest.raises(Killed):
        make_loop(name="killed", report=_kill_at(6), checkpoint_seconds=1e-9).run()
    newest = max((tmp_path / "killed").glob("step-*"))
    (newest / "state.pt").write_bytes(b"rubbish")
    seen: list[float] = []
    resumed = make_loop(name="killed", report=lambda row: seen.append(row["step"]))
    resumed.run()
    assert "is damaged" in caplog.text
    assert min(seen) == 5, "step 5 is done again"
    assert _same(_weights(resumed), _weights(straight))


def test_a_finished_run_started_again_does_nothing(make_loop) -> None:
    done = make_loop()
    done.run()
    seen: list[float] = []
    again = make_loop(report=lambda row: seen.append(row["step"]))
    again.run()
    assert seen == []
    assert _same(_weights(again), _weights(done))


def test_the_size_of_a_micro_batch_changes_neither_losses_nor_weights(make_loop) -> None:
    whole = make_loop(name="whole")
    losses = _losses(whole.run())
    for size in (1, 2, 3):
        parts = make_loop(name=f"parts{size}", micro_batch=size)
        assert _losses(parts.run()) == pytest.approx(losses, abs=2e-5)
        for name, value in _weights(parts).items():
            assert (value - _weights(whole)[name]).abs().max() < 1e-4, name


def test_the_frozen_part_computed_once_gives_the_same_training(make_loop, new_model) -> None:
    loop = make_loop(1)
    losses = _losses(loop.run())
    slow = make_loop(1, name="slow")
    slow._lower = None  # every layer in every step
    assert _losses(slow.run()) == pytest.approx(losses, abs=2e-5)


def test_a_resumed_run_computes_frozen_layers_in_the_same_batches(make_loop, monkeypatch) -> None:
    monkeypatch.setattr(loop_module, "LOWER_BATCH", 4)
    batches: dict[str, set[tuple[tuple[int, ...], ...]]] = {"straight": set(), "killed": set()}

    def spied(name: str, **fields: Any) -> Loop:
        loop = make_loop(1, name=name, checkpoint_seconds=1e-9, **fields)
        lower = loop._engine.lower
        loop._engine.lower = lambda rows: batches[name].add(tuple(row.ids for row in rows)) or lower(rows)
        return loop

    spied("straight").run()
    with pytest.raises(Killed):
        spied("killed", report=_kill_at(4)).run()
    spied("killed").run()
    assert batches["killed"] == batches["straight"], "a row's last bits depend on what it is computed with"
    assert len(batches["straight"]) == 6


@pytest.mark.parametrize(("dropout", "expected"), [(0.0, 3), (0.1, 1)])
def test_only_an_engine_that_shares_passages_gets_the_rows_of_each_apart(
    make_loop, dropout: float, expected: int
) -> None:
    loop = make_loop(1, dropout=dropout, batch_size=6, micro_batch=6)
    assert loop.engine.shares_prefixes is not bool(dropout)
    loop.rows = [
        replace(row, context="ab"[number % 2] if number < 4 else "")
        for number, row in enumerate(loop.rows[:6])
    ]
    taken: list[int] = []
    lower, losses = loop._engine.lower, loop._engine.token_losses
    loop._engine.lower = lambda rows: taken.append(len(rows)) or lower(rows)
    parts: list[int] = []
    loop._engine.token_losses = lambda rows, below: parts.append(len(rows)) or losses(rows, below)
    numbers = [0, 2, 1, 3, 4, 5]
    loop._fill_lower([numbers])
    loop._gradient(numbers, Progress(micro_batch=6))
    assert (len(taken), len(parts)) == (expected, expected)


def test_the_best_state_is_put_back(make_loop) -> None:
    states: list[dict[str, torch.Tensor]] = []
    scores = iter([0.2, 0.9, 0.5])

    def recall() -> float:
        states.append(_weights(loop))
        return next(scores)

    loop = make_loop(recall=recall, recall_epochs=frozenset({1, 2}))
    progress = loop.run()
    assert (progress.best_recall, progress.best_step) == (0.9, 6)
    assert [row["recall"] for row in progress.recall] == [0.2, 0.9, 0.5]
    assert _same(_weights(loop), states[1])
    assert not _same(states[1], states[2])


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [
        (None, [0.0, 0.5, 0.5, 0.5, 0.5], 5),
        (1, [0.0, 0.0, 0.5, 0.5], 4),  # nothing recalled yet is not flat
        (2, [0.2, 0.1, 0.3, 0.2, 0.3], 5),
        (2, [0.2, 0.1, 0.2], 3),
        (3, [0.2, 0.1, 0.2, 0.3, 0.1], 5),
    ],
)
def test_training_ends_where_recall_stays_flat(make_loop, patience, scores, epochs) -> None:
    told = iter(scores)
    loop = make_loop(
        recall=lambda: next(told), recall_epochs=frozenset(range(1, 5)), epochs=5, patience=patience
    )
    progress = loop.run()
    assert (progress.epoch, len(progress.recall)) == (epochs, epochs)
    assert progress.best_recall == max(scores)
    again = make_loop(recall_epochs=frozenset(range(1, 5)), epochs=5, patience=patience).run()
    assert again.step == progress.step


def test_of_two_equal_scores_the_later_state_stays(make_loop) -> None:
    loop = make_loop(recall=lambda: 0.5)
    progress = loop.run()
    assert progress.best_step == progress.step


def test_recall_is_measured_without_dropout_and_training_goes_on_with_it(make_loop) -> None:
    modes: list[bool] = []
    loop = make_loop(dropout=0.5, recall=lambda: float(modes.append(loop.model.training) or 0))
    loop.run()
    assert modes == [False, False]
    assert loop.model.training


def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_no_weight(make_loop) -> None:
    loop = make_loop()
    before = _weights(loop)
    with torch.no_grad():
        loop.model.get_base_model().model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainError, match=r"loss is nan at step 0: lower train\.learning_rate"):
        loop.run()
    assert _same(_weights(loop), before)


@pytest.mark.parametrize(("change", "said"), [(0.1, True), (-0.1, False)])
def test_a_loss_that_rises_from_epoch_to_epoch_is_said(make_loop, monkeypatch, caplog, change, said) -> None:
    compute = Loop._gradient
    monkeypatch.setattr(Loop, "_gradient", lambda *step: (4 + change * step[2].epoch, compute(*step)[1]))
    make_loop().run()
    assert (
        "from 4.00 in the first epoch to 4.20 in epoch 3: lower train.learning_rate" in caplog.text
    ) is said
    assert ("the loss rose" in caplog.text) is said


class Small:
    """An engine with memory for few rows at a time; what is over it is lost in the middle of the backward pass."""

    def __init__(self, engine: Any, room: Callable[[], int], error: Exception) -> None:
        self._engine, self._room, self._error, self.seen = engine, room, error, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def token_losses(self, rows: Any, below: Any) -> torch.Tensor:
        self.seen.append(len(rows))
        losses = self._engine.token_losses(rows, below)
        if len(rows) > self._room():
            (losses.sum() / 3).backward()
            raise self._error
        return losses


OUT_OF_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("first_layer", [0, 1])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    make_loop, caplog, error: Exception, first_layer: int
) -> None:
    rows = []
    whole = make_loop(first_layer, name="whole", batch_size=8, micro_batch=16)
    expected = whole.run()
    loop = make_loop(first_layer, name="small", batch_size=8, micro_batch=16, report=rows.append)
    loop._engine = Small(loop._engine, lambda: 8 if len(rows) < 1 else 4 if len(rows) < 5 else 2, error)
    progress = loop.run()
    assert (progress.micro_batch, progress.halvings) == (2, 2)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, loop.num_steps + 1))
    assert _losses(progress) == pytest.approx(_losses(expected), abs=2e-5)
    for name, value in _weights(loop).items():
        assert (value - _weights(whole)[name]).abs().max() < 1e-4, name
    assert "with micro_batch 8: going on with 4" in caplog.text
    assert "with micro_batch 4: going on with 2" in caplog.text
    assert max(loop._engine.seen[-2:]) == 2


def test_where_another_process_lacks_memory_this_one_takes_half_as_many_rows_as_well(
    make_loop, monkeypatch
) -> None:
    expected = make_loop(name="whole", batch_size=8, micro_batch=16).run()
    others = iter([False, True])
    monkeypatch.setattr(distributed, "any_of", lambda flag: flag or next(others, False))
    loop = make_loop(name="half", batch_size=8, micro_batch=16)
    progress = loop.run(dict)
    assert (progress.micro_batch, progress.halvings) == (4, 1)
    assert _losses(progress) == pytest.approx(_losses(expected), abs=2e-5)


def test_where_weights_are_spread_a_lack_of_memory_ends_the_run_with_what_to_set(
    make_loop, monkeypatch
) -> None:
    loop = make_loop(batch_size=8, micro_batch=16)
    loop._engine = Small(loop._engine, lambda: 4, MemoryError())
    monkeypatch.setattr(distributed, "is_sharded", lambda: True)
    monkeypatch.setattr(distributed, "any_of", lambda flag: flag and pytest.fail("the others cannot hear"))
    with pytest.raises(TrainError, match=r"step 0 with 8 row.*set train\.micro_batch below 8"):
        loop.run()


def test_after_the_system_killed_a_run_for_memory_the_next_takes_half_as_many_rows_at_once(
    make_loop, tmp_path: Path, monkeypatch, caplog
) -> None:
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(killed, "COUNTERS", counters)
    counters.write_text("oom_kill 1\n")
    whole = make_loop(name="whole", batch_size=8, micro_batch=16)
    expected = whole.run()
    with pytest.raises(Killed):
        make_loop(
            name="again", batch_size=8, micro_batch=16, report=_kill_at(2), checkpoint_seconds=1e-9
        ).run()
    assert not (tmp_path / "again" / killed.MARK).exists()
    killed.mark(tmp_path / "again", 8)
    counters.write_text("oom_kill 2\n")
    loop = make_loop(name="again", batch_size=8, micro_batch=16)
    progress = loop.run()
    assert (progress.micro_batch, progress.halvings) == (4, 1)
    assert "killed the last run, with micro_batch 8, for want of memory: going on with 4" in caplog.text
    assert _losses(progress) == pytest.approx(_losses(expected), abs=2e-5)
    for name, value in _weights(loop).items():
        assert (value - _weights(whole)[name]).abs().max() < 1e-4, name


def test_the_batch_with_the_most_tokens_is_tried_first_and_changes_nothing(make_loop) -> None:
    plain = make_loop(dropout=0.2, name="plain", batch_size=4, micro_batch=4)
    expected = plain.run()
    loop = make_loop(dropout=0.2, name="tried", batch_size=4, micro_batch=4)
    loop._engine = Small(loop._engine, lambda: 2, MemoryError())
    sizes = [
        sum(len(loop.rows[number].ids) for number in batch)
        for epoch in range(loop.settings.epochs)
        for batch in loop._batches(epoch)
    ]
    progress = loop.run(lambda: {"labels": {"rows": 1.0}})
    largest = progress.preflight["largest batch"]
    assert largest["tokens"] == max(sizes)
    assert (largest["micro_batch"], progress.halvings) == (2, 1), "memory ran out before the first step"
    assert 50e6 < largest["memory_bytes"] < 1e12
    assert progress.micro_batch == 2
    loop = make_loop(dropout=0.2, name="same", batch_size=4, micro_batch=4)
    assert _losses(loop.run(dict)) == _losses(expected)
    assert _same(_weights(loop), _weights(plain))


def test_what_rows_share_counts_once_in_what_is_tried_first(make_loop, encoded) -> None:
    loop = make_loop()
    above = tuple(encoded[0].ids[:4]) * 30
    below = [
        replace(row, ids=above + row.ids, labels=(IGNORED,) * len(above) + row.labels, context="c")
        for row in encoded[:2]
    ]
    loop.rows = [*below, *encoded[2:]]
    assert len(above) < loop._num_tokens([0, 1]) < 2 * len(above)
    assert loop._num_tokens([2, 3]) == len(encoded[2].ids) + len(encoded[3].ids)
    assert loop._num_tokens([0, 2]) == len(below[0].ids), "parts of their own, of which the larger counts"
    loop._engine.shares_prefixes = False
    assert loop._num_tokens([0, 1]) == sum(len(row.ids) for row in below)


def test_a_row_that_does_not_fit_alone_ends_the_run_with_what_to_do(make_loop) -> None:
    loop = make_loop()
    before = _weights(loop)
    loop._engine = Small(loop._engine, lambda: 0, MemoryError())
    with pytest.raises(TrainError, match=r"step 0 with micro_batch=1, on rows of up to \d+ tokens: close"):
        loop.run()
    assert loop._engine.seen == [2, 1], "the first batch of this seed has two rows"
    assert _same(_weights(loop), before)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_beside_the_steps_ends_the_run_with_what_to_do(
    make_loop, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    with pytest.raises(TrainError, match=r"Memory ran out before the first step: close other programs"):
        make_loop().run(fail)
    with pytest.raises(TrainError, match="Memory ran out while recall was measured: close"):
        make_loop(recall=fail).run()
    loop = make_loop(1, name="lower")
    loop._engine.lower = fail
    with pytest.raises(
        TrainError,
        match=r"below train\.first_layer, with 32 rows at once: close other programs, lower train\.max_tokens, "
        r"set train\.first_layer to 0, or",
    ):
        loop.run()


def test_another_error_is_not_taken_for_a_lack_of_memory(make_loop) -> None:
    loop = make_loop()
    error = RuntimeError("shapes cannot be multiplied")
    loop._engine = Small(loop._engine, lambda: 0, error)
    with pytest.raises(RuntimeError, match="shapes"):
        loop.run()

    def fail() -> Any:
        raise error

    with pytest.raises(RuntimeError, match="shapes"):
        make_loop(name="checked").run(fail)


def test_a_resumed_run_goes_on_with_what_memory_held(make_loop) -> None:
    first = make_loop(name="run", report=_kill_at(3), checkpoint_seconds=1e-9)
    first._engine = Small(first._engine, lambda: 2, MemoryError())
    with pytest.raises(Killed):
        first.run()
    again = make_loop(name="run")
    again._engine = Small(again._engine, lambda: 99, MemoryError())
    progress = again.run()
    assert (progress.micro_batch, progress.halvings) == (2, 1)
    assert max(again._engine.seen) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(make_loop, tmp_path: Path, number: int) -> None:
    straight = make_loop(name="straight", dropout=0.2)
    straight.run()

    def interrupt(row: dict[str, float]) -> None:
        if row["step"] == 4 and "loss" in row:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        make_loop(name="run", dropout=0.2, report=interrupt).run()
    assert max((tmp_path / "run").glob("step-*")).name == "step-000004"
    seen: list[float] = []
    resumed = make_loop(name="run", dropout=0.2, report=lambda row: seen.append(row["step"]))
    resumed.run()
    assert seen[0] == 5
    assert _same(_weights(resumed), _weights(straight))


def test_a_signal_while_recall_is_measured_last_does_not_get_lost(make_loop) -> None:
    def recall() -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        make_loop(recall=recall, recall_epochs=frozenset()).run()
    seen: list[float] = []
    make_loop(report=lambda row: seen.append(row["step"])).run()
    assert seen == []


def test_the_checks_come_before_the_first_step_and_not_when_a_run_is_resumed(make_loop) -> None:
    found = {"labels": {"rows": 3.0}}
    with pytest.raises(Killed):
        make_loop(report=_kill_at(2), checkpoint_seconds=1e-9).run(lambda: found)
    progress = make_loop().run(lambda: pytest.fail("checked again"))
    assert progress.preflight == found


def test_a_run_that_would_go_on_in_another_order_is_refused(make_loop, monkeypatch) -> None:
    with pytest.raises(Killed):
        make_loop(report=_kill_at(2), checkpoint_seconds=1e-9).run()
    right = loop_module.epoch_batches
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "epoch_batches", lambda *given: right(*given)[::-1])
        loop = make_loop()
        before = _weights(loop)
        with pytest.raises(
            TrainError, match=r"at step 1, the run began with \w{12}: some rows would be trained on"
        ):
            loop.run()
        assert not (loop.checkpoints / killed.MARK).exists()
        assert not _same(before, _weights(loop)), "the checkpoint was there"
    assert make_loop().run().step == 9


def test_processes_whose_order_differs_from_that_of_the_main_one_do_not_begin(make_loop, monkeypatch) -> None:
    loop = make_loop()
    monkeypatch.setattr(loop_module.distributed, "from_main", lambda value: "0" * 64)
    with pytest.raises(TrainError, match="the run began with 000000000000"):
        loop.run()


def test_each_measurement_is_reported_after_its_steps_loss(make_loop) -> None:
    rows: list[dict[str, float]] = []
    make_loop(report=rows.append, recall=lambda: 0.5).run()
    places = [number for number, row in enumerate(rows) if "recall" in row]
    assert [rows[place]["step"] for place in places] == [3, 9]
    assert [rows[place - 1]["step"] for place in places] == [3, 9]


def test_gradients_are_clipped(make_loop) -> None:
    free, tight = make_loop(name="free"), make_loop(name="tight", max_gradient_norm=1e-9)
    start = _weights(tight)
    free.run()
    tight.run()
    # Adam divides the size away, but not past its epsilon: gradients this small hardly move anything.
    moved = [
        max(float((_weights(loop)[name] - start[name]).abs().max()) for name in start)
        for loop in (free, tight)
    ]
    assert moved[1] < 0.2 * moved[0]


def test_every_groups_rate_follows_the_schedule(make_loop) -> None:
    seen: list[list[float]] = []
    loop = make_loop(
        report=lambda row: (
            seen.append([group["lr"] / row["learning_rate"] for group in loop._optimizer._adamw.param_groups])
            if "loss" in row
            else None
        ),
        lora_plus=16.0,
    )
    loop.run()
    assert seen == [[1.0, 16.0]] * loop.num_steps
