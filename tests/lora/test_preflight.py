"""What is tried before training: every planted fault is named in time, and a sound run is left as it was."""

import logging
import random
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from factory.errors import TrainError
from factory.lora import attach, preflight
from factory.lora.batches import IGNORED
from factory.lora.checkpoint import trained_state
from factory.lora.engine import FusedEngine, PlainEngine
from factory.lora.loop import Loop
from factory.lora.optimizer import Optimizer
from factory.lora.trial import HEAD, TAIL, Trial, short_rows
from tests.lora.test_loop import SETTINGS

END = 2  # of a turn, in the tiny tokenizer


class Changed:
    """An engine of which a test changes one method."""

    def __init__(self, engine: Any, **changes: Any) -> None:
        self._engine = engine
        vars(self).update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _fused(model, settings=SETTINGS):
    return FusedEngine(model, 0, settings.dtype)


def _plain(model, settings=SETTINGS):
    return PlainEngine(model, 0, settings.dtype, "cpu", settings.pad_id)


@pytest.fixture
def run(encoded, tmp_path):
    """Return a function that runs all checks on a model, in an engine that a function makes of it."""

    def go(model, engine=_fused, rows=encoded, **changes):
        settings = replace(SETTINGS, **changes)
        return preflight.run(model, engine(model, settings), rows, settings, END, tmp_path / "checkpoints")

    return go


@pytest.mark.parametrize("engine", [_fused, _plain])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_run_passes_and_every_check_says_what_it_found(run, new_model, caplog, engine, dtype) -> None:
    with caplog.at_level(logging.INFO):
        found = run(new_model(), engine, dtype=dtype)
    assert list(found) == [
        "labels", "order", "same seed", "effect", "overfit", "packed", "gradient", "resume",
    ]  # fmt: skip
    assert found["overfit"]["lowest_loss"] < 0.7 * found["overfit"]["first_loss"]
    assert found["packed"]["packed_loss"] == pytest.approx(found["packed"]["plain_loss"], rel=2e-2)
    assert found["effect"]["moved_logits"] > 0
    tolerance = preflight.GRADIENT_TOLERANCE[dtype]
    assert found["gradient"]["split_difference"] < 0.5 * tolerance
    assert found["gradient"]["engine_difference"] < tolerance
    assert found["resume"]["difference"] == 0
    lines = [record.message for record in caplog.records if record.name == "factory.lora.preflight"]
    assert [line.split(":")[0] for line in lines] == [f"preflight {name}" for name in found]


def test_an_adapter_above_frozen_layers_with_dropout_passes_too(run, new_model) -> None:
    run(new_model(1, dropout=0.3), lambda model, settings: PlainEngine(model, 1, settings.dtype, "cpu", 2))
    run(new_model(1), _fused_above)


def _fused_above(model, settings):
    return FusedEngine(model, 1, settings.dtype)


def test_every_step_above_frozen_layers_takes_what_they_put_out_as_the_run_does(run, new_model) -> None:
    seen = []

    def spied(model, settings):
        engine = _fused_above(model, settings)

        def token_losses(rows, below, soft=None):
            seen.append(below is not None)
            return engine.token_losses(rows, below)

        return Changed(engine, token_losses=token_losses)

    run(new_model(1), spied)
    assert seen.count(False) == 1, "once without, to compare"
    assert seen.count(True) > 20


def test_frozen_layers_computed_apart_with_another_result_are_noticed(run, new_model) -> None:
    def other(model, settings):
        engine = _fused_above(model, settings)
        return Changed(engine, lower=lambda rows: [1.5 * values for values in engine.lower(rows)])

    with pytest.raises(TrainError, match="with what lies below layer 1 computed before"):
        run(new_model(1), other)


def test_nothing_has_changed_afterwards(run, new_model) -> None:
    model = new_model(dropout=0.2)
    before, seen = trained_state(model), []
    for _ in range(2):
        attach.seed_everything(4)
        if seen:
            run(model, _plain)
        seen.append((torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()))
    assert seen[0] == seen[1]
    after = trained_state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value.grad is None for value in model.parameters())
    assert model.training


def test_a_run_after_the_checks_ends_with_the_same_bits_as_one_without(new_model, encoded, tmp_path) -> None:
    ends = []
    for checked in (False, True):
        folder = tmp_path / str(checked)
        loop = Loop(new_model(dropout=0.2), 0, encoded, SETTINGS, folder, lambda: 0.0, lambda row: None)
        trial = (loop.model, loop.engine, encoded, SETTINGS, END, folder)
        progress = loop.run((lambda trial=trial: preflight.run(*trial)) if checked else None)
        assert bool(progress.preflight) == checked
        ends.append((trained_state(loop.model), [row["loss"] for row in progress.history]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])


def test_a_fault_leaves_the_model_as_it_was_too(run, new_model) -> None:
    model = new_model()
    before = trained_state(model)
    with pytest.raises(TrainError):
        run(
            model,
            lambda m, s: Changed(
                _fused(m), token_losses=lambda rows, below: _fused(m).token_losses(rows, below) * 1.1
            ),
        )
    assert all(torch.equal(before[name], value) for name, value in trained_state(model).items())


def test_an_order_that_differs_when_it_is_made_again_is_noticed(run, new_model, monkeypatch) -> None:
    right, free = preflight.epoch_batches, random.Random(1)
    monkeypatch.setattr(
        preflight, "epoch_batches", lambda *given: free.sample(batches := right(*given), len(batches))
    )
    with pytest.raises(TrainError, match=r"Seed 11 gave two orders of the same \d+ rows"):
        run(new_model())


def test_an_epoch_with_a_row_twice_is_noticed(run, new_model, monkeypatch) -> None:
    right = preflight.epoch_batches
    monkeypatch.setattr(preflight, "epoch_batches", lambda *given: [*right(*given), right(*given)[0]])
    with pytest.raises(TrainError, match=r"Epoch 1 trains on 2 of its 14 rows twice"):
        run(new_model())


def test_an_empty_label_mask_is_refused(run, new_model, encoded) -> None:
    masked = [replace(encoded[0], labels=(IGNORED,) * len(encoded[0].ids)), *encoded[1:]]
    with pytest.raises(TrainError, match=rf"1 of {len(encoded)} training rows have no token with loss"):
        run(new_model(), rows=masked)


def test_an_untrained_end_of_turn_is_refused(run, new_model, encoded) -> None:
    masked = [replace(row, labels=(*row.labels[:-1], IGNORED)) for row in encoded]
    with pytest.raises(TrainError, match=rf"{len(encoded)} of {len(encoded)} .* end of turn \(token 2\)"):
        run(new_model(), rows=masked)


def test_rows_that_see_each_other_are_noticed(run, new_model) -> None:
    def leaking(model, settings):
        """Lay the rows end to end as if they were one."""
        engine = _fused(model)

        def token_losses(rows, below, soft=None):
            joined = replace(
                rows[0],
                ids=tuple(token for row in rows for token in row.ids),
                labels=tuple(label for row in rows for label in row.labels),
            )
            return engine.token_losses([joined], None)

        return Changed(engine, token_losses=token_losses)

    with pytest.raises(TrainError, match="rows see each other, or the adapter is left out"):
        run(new_model(trained=True), leaking)


def test_an_engine_that_forgets_the_adapter_is_noticed(run, new_model) -> None:
    def forgetful(model, settings):
        return Changed(_fused(model), refresh=lambda: None)  # the adapter as it was in the beginning

    with pytest.raises(TrainError, match="steps on one row took its loss from"):
        run(new_model(), forgetful)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", ["q_proj", "v_proj", "down_proj"])
def test_a_tiny_adapter_that_learns_what_it_can_passes(run, new_model, target, dtype) -> None:
    found = run(new_model(rank=1, targets=(target,), layers=(1,)), _fused_above, dtype=dtype)["overfit"]
    assert 0 < found["expected_gain"] < 0.3 * found["first_loss"]


def test_a_frozen_adapter_and_one_behind_a_cut_graph_are_noticed(run, new_model) -> None:
    frozen, cut = new_model(), new_model()
    for value in frozen.parameters():
        value.requires_grad_(False)
    with pytest.raises(TrainError, match=r"moved the model's logits by 0\.0"):
        run(frozen, _plain)

    def detached(model, settings):
        engine = _plain(model)

        def token_losses(rows, below, soft=None):
            nothing = 0.0 * sum(value.sum() for value in model.parameters() if value.requires_grad)
            return engine.token_losses(rows, below).detach() + nothing

        return Changed(engine, token_losses=token_losses)

    with pytest.raises(TrainError, match=r"moved the model's logits by 0\.0"):
        run(cut, detached)


def test_steps_that_go_up_are_noticed(run, new_model) -> None:
    def upward(model, settings):
        engine = _fused(model)

        def token_losses(rows, below, soft=None):
            value = engine.token_losses(rows, below)
            return 2 * value.detach() - value

        return Changed(engine, token_losses=token_losses)

    with pytest.raises(TrainError, match="the adapter does not learn"):
        run(new_model(), upward)


def test_an_adapter_that_the_model_does_not_apply_is_noticed(run, new_model) -> None:
    for engine in (_fused, _plain):
        model = new_model()
        model.base_model.disable_adapter_layers()
        for name, value in model.named_parameters():
            value.requires_grad_("lora_" in name)
        with pytest.raises(TrainError, match=r"moved the model's logits by 0\.0"):
            run(model, engine)


def test_an_optimizer_whose_steps_never_count_is_noticed(run, new_model, monkeypatch) -> None:
    monkeypatch.setattr(Optimizer, "step", lambda self, rate: self.clear())
    with pytest.raises(TrainError, match=r"moved the model's logits by 0\.0"):
        run(new_model())


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"lora_plus": 16.0}, "AdamW"), ({"optimizer": "paged_adamw_8bit"}, "PagedAdamW8bit")],
)
def test_the_runs_own_kind_of_optimizer_is_tried(run, new_model, monkeypatch, changes, kind) -> None:
    if "optimizer" in changes:
        pytest.importorskip("bitsandbytes")
    tried, step = [], Optimizer.step

    def spy(self, rate):
        step(self, rate)
        rates = [group["lr"] / rate for group in self._adamw.param_groups]
        tried.append((type(self._adamw).__name__, rates))

    monkeypatch.setattr(Optimizer, "step", spy)
    found = run(new_model(), **changes)
    assert {name for name, _ in tried} == {kind}
    assert all(rates == ([1.0, 16.0] if "lora_plus" in changes else [1.0]) for _, rates in tried)
    assert found["resume"]["difference"] == 0


def test_a_scaled_loss_is_tried_and_a_first_step_that_overflows_is_no_fault(
    run, new_model, monkeypatch
) -> None:
    backward, losses = Optimizer.backward, []

    def overflow(self, loss):
        losses.append(self._scaler.scale(loss).item() / loss.item())
        backward(self, loss * (1e36 if len(losses) == 1 else 1.0))

    monkeypatch.setattr(Optimizer, "backward", overflow)
    run(new_model(), lambda model, settings: FusedEngine(model, 0, torch.float32), dtype=torch.float16)
    assert losses[:2] == pytest.approx([65536, 32768])


def test_a_gradient_that_depends_on_the_micro_batch_is_noticed(run, new_model) -> None:
    def uneven(model, settings):
        engine = _fused(model)

        def token_losses(rows, below, soft=None):
            value = engine.token_losses(rows, below)
            return value + (len(rows) == 1) * 0.5 * (value - value.detach())  # same value, larger gradient

        return Changed(engine, token_losses=token_losses)

    with pytest.raises(TrainError, match=r"train\.micro_batch would change what is learned"):
        run(new_model(), uneven)


@pytest.mark.parametrize(
    ("factor", "dtype", "fits"),
    [
        (0.5, torch.float32, True),
        (0.8, torch.bfloat16, True),
        (2.0, torch.bfloat16, True),
        (0.5, torch.bfloat16, False),  # gross enough for gradients that are rounded on both sides
        (2.0, torch.bfloat16, False),
    ],
)
def test_a_gradient_of_another_size_is_noticed_however_rows_are_split(
    run, new_model, monkeypatch, factor, dtype, fits
) -> None:
    monkeypatch.setattr(Trial, "fits_in_float32", fits)

    def scaled(model, settings):
        engine = _fused(model, settings)

        def token_losses(rows, below, soft=None):
            value = engine.token_losses(rows, below)
            return value.detach() + factor * (value - value.detach())

        return Changed(engine, token_losses=token_losses)

    with pytest.raises(TrainError, match="from what the model's own modules give"):
        run(new_model(), scaled, dtype=dtype)


@pytest.mark.parametrize(
    ("rounding", "exact", "fits", "refused"),
    [
        (0.03, 0.0, True, False),  # only the model's own modules round
        (0.03, 0.03, True, True),
        (0.03, 0.0, False, False),  # nothing exact to compare with
        (0.2, 0.0, False, True),
    ],
)
def test_only_the_own_modules_rounding_is_no_fault_of_the_engine(
    run, new_model, monkeypatch, rounding, exact, fits, refused
) -> None:
    plain = Trial.plain_loss
    off = {torch.bfloat16: 1 + rounding, torch.float32: 1 + exact}
    monkeypatch.setattr(Trial, "fits_in_float32", fits)
    monkeypatch.setattr(Trial, "plain_loss", lambda trial: off[trial.settings.dtype] * plain(trial))
    with pytest.raises(TrainError, match="when the model takes") if refused else nullcontext():
        run(new_model(), dtype=torch.bfloat16)


def test_the_exact_gradient_leaves_the_weights_as_they_are(new_model, encoded) -> None:
    model = new_model()
    for value in model.parameters():
        value.data = value.data if value.requires_grad else value.data.bfloat16()
    settings = replace(SETTINGS, dtype=torch.bfloat16)
    trial = Trial(model, _fused(model, settings), settings, encoded[:3])
    before = {name: (value.dtype, value.data_ptr()) for name, value in model.named_parameters()}
    assert trial.fits_in_float32
    with trial.in_float32() as exact:
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        exact.take_plain_gradient()
    assert {name: (value.dtype, value.data_ptr()) for name, value in model.named_parameters()} == before


def test_weights_that_are_quantized_or_too_many_have_no_exact_gradient(new_model, monkeypatch) -> None:
    trial = Trial(new_model(), None, SETTINGS, ())
    assert trial.fits_in_float32
    with monkeypatch.context() as patch:
        patch.setattr("factory.lora.fit.available_bytes", lambda device: 1000)
        assert not trial.fits_in_float32
    frozen = next(value for value in trial.model.parameters() if not value.requires_grad)
    frozen.data = frozen.data.to(torch.uint8)
    assert not trial.fits_in_float32


def test_random_numbers_without_a_seed_are_noticed(run, new_model) -> None:
    def noisy(model, settings):
        engine, free = _fused(model), random.SystemRandom()
        return Changed(
            engine,
            token_losses=lambda rows, below: engine.token_losses(rows, below) * (1 + 0.01 * free.random()),
        )

    with pytest.raises(TrainError, match="could be neither repeated nor resumed"):
        run(new_model(), noisy)


def test_a_checkpoint_that_loses_the_optimizer_is_noticed(run, new_model, monkeypatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    with pytest.raises(TrainError, match="a resumed run would be another one"):
        run(new_model())


def test_a_loss_that_is_not_finite_fails_a_check(run, new_model) -> None:
    model = new_model()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainError, match="rows is nan before the first step"):
        run(model)


def test_short_rows_of_several_lengths_are_taken_and_long_ones_cut(encoded) -> None:
    taken = short_rows(encoded)
    assert len({len(row.ids) for row in taken}) > 1
    assert max(len(row.ids) for row in taken) <= HEAD + TAIL
    long = replace(encoded[0], ids=tuple(range(100)), labels=(IGNORED,) * 90 + tuple(range(90, 100)))
    (cut,) = short_rows([long])
    assert cut.ids == (*range(16), *range(52, 100))
    assert cut.labels[-10:] == long.labels[-10:]
    assert len(cut.labels) == len(cut.ids)


def test_the_models_own_loss_is_that_of_each_row_alone(new_model, encoded) -> None:
    model = new_model(trained=True).eval()
    trial = Trial(model, _fused(model), SETTINGS, encoded[:3])
    labels = sum(label != IGNORED for row in encoded[:3] for label in row.labels)
    alone = [
        model(input_ids=torch.tensor([row.ids]), labels=torch.tensor([row.labels])).loss
        * sum(label != IGNORED for label in row.labels)
        for row in encoded[:3]
    ]
    assert trial.plain_loss() == pytest.approx(sum(value.item() for value in alone) / labels, rel=1e-5)
