"""Objectives: distillation moves the model to its teacher, preferences move it as plain peft would, exactly."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from factory.lora import attach
from factory.lora.batches import EncodedRow, num_labels
from factory.lora.checkpoint import trained_state
from factory.lora.engine import FusedEngine, PlainEngine
from factory.lora.layout import lay_out
from factory.lora.loop import Loop
from factory.lora.objectives import CrossEntropy, Distillation, Preference, margin
from tests.lora.test_loop import SETTINGS, Killed, _kill_at

PAD = 2
BETA = 0.3


def _engine(kind: str, model, first_layer: int = 0):
    if kind == "fused":
        return FusedEngine(model, first_layer, torch.float32)
    return PlainEngine(model, first_layer, torch.float32, "cpu", PAD)


def _row(prompt, answer) -> EncodedRow:
    return EncodedRow((*prompt, *answer), (-100,) * len(prompt) + tuple(answer), str(prompt))


@pytest.fixture(scope="module")
def pairs(encoded) -> tuple[list[EncodedRow], list[EncodedRow]]:
    """Chosen and rejected answers of unlike lengths to the prompts of six rows."""
    prompts = [row.ids[: row.labels.index(next(x for x in row.labels if x >= 0))] for row in encoded[:6]]
    answers = [[x for x in row.labels if x >= 0] for row in encoded]
    chosen = [_row(prompt, answers[number]) for number, prompt in enumerate(prompts)]
    rejected = [_row(prompt, answers[number + 8][1:]) for number, prompt in enumerate(prompts)]
    return chosen, rejected


def _plain_margin(model, chosen: EncodedRow, rejected: EncodedRow) -> torch.Tensor:
    """The difference of the answers' log-probabilities through peft's own modules, a row at a time."""
    sums = []
    for row in (chosen, rejected):
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        sums.append(-functional.cross_entropy(logits, torch.tensor(row.labels[1:]), reduction="sum"))
    return sums[0] - sums[1]


def _move(model) -> None:
    torch.manual_seed(9)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn(value.shape))


@pytest.mark.parametrize("kind", ["fused", "plain"])
@pytest.mark.parametrize(("first_layer", "cut"), [(0, 0), (1, 1), (1, 0)])
def test_the_preference_loss_and_its_gradient_are_those_of_plain_peft(
    new_model, pairs, kind, first_layer, cut
) -> None:
    chosen, rejected = pairs
    plain = new_model(first_layer, trained=True).double()
    with torch.no_grad():
        before = [_plain_margin(plain, *pair) for pair in zip(chosen, rejected, strict=True)]
    _move(plain)
    now = [_plain_margin(plain, *pair) for pair in zip(chosen, rejected, strict=True)]
    expected = sum(
        -functional.logsigmoid(BETA * (one - other)) for one, other in zip(now, before, strict=True)
    )
    expected.backward()

    model = new_model(first_layer, trained=True)
    engine, objective = _engine(kind, model, cut), Preference(chosen, rejected, BETA)
    objective.prepare(engine)
    _move(model)
    engine.refresh()
    loss = objective.losses(engine, range(len(chosen)), chosen, None).sum()
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    theirs = dict(plain.named_parameters())
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    errors = sum(float((value.grad - theirs[name].grad).square().sum()) for name, value in trained)
    size = sum(float(theirs[name].grad.square().sum()) for name, _ in trained)
    assert trained
    assert (errors / size) ** 0.5 < 1e-5
    gains = [(one - other).item() for one, other in zip(now, before, strict=True)]
    assert objective.gains(engine) == pytest.approx(gains, abs=1e-3)


def test_before_the_first_step_the_preference_loss_is_log_2_and_no_matter_how_pairs_are_parted(
    new_model, pairs
) -> None:
    engine, objective = FusedEngine(new_model(trained=True), 0, torch.float32), Preference(*pairs, BETA)
    objective.prepare(engine)
    assert objective.size(pairs[0]) == 6
    whole = objective.losses(engine, range(6), pairs[0], None).sum()
    parts = [objective.losses(engine, [number], [pairs[0][number]], None).sum() for number in range(6)]
    assert whole.item() == pytest.approx(6 * math.log(2), rel=1e-6)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_pair_shares_its_prompt(pairs) -> None:
    for chosen, rejected in zip(*pairs, strict=True):
        assert lay_out([chosen, rejected]).prefix == len(chosen.ids) - num_labels(chosen) - 1


def test_training_on_preferences_raises_every_chosen_answer_over_the_rejected_one(
    new_model, pairs, tmp_path
) -> None:
    model, objective = new_model(trained=True), Preference(*pairs, BETA)
    settings = replace(SETTINGS, epochs=8, batch_size=4, micro_batch=2, learning_rate=2e-3)
    loop = Loop(model, 0, pairs[0], settings, tmp_path / "run", lambda: 0.0, lambda row: None, objective)
    progress = loop.run()
    gains = objective.gains(loop.engine)
    assert progress.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert progress.history[-1]["loss"] < 0.5 * math.log(2)
    assert min(gains) > 1
    assert objective._before != objective._margins(loop.engine)


@torch.no_grad()
def _likeliest(model, prompt, count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


@pytest.fixture(scope="module")
def distilled(base, encoded):
    """Rows, each with a teacher's row of another prompt whose answer the untrained base finds likeliest."""
    model = attach.load_model(base, torch.float32, "cpu").eval()
    prompts = [row.ids[:9] + encoded[-1].ids[2:12] for row in encoded[:8]]
    made = [_likeliest(model, prompt, 5) for prompt in prompts]
    teachers = [_row(prompt, answer) for prompt, answer in zip(prompts, made, strict=True)]
    rows = [_row(row.ids[:9], answer) for row, answer in zip(encoded[:8], made, strict=True)]
    return rows, teachers


@pytest.fixture
def make_run(new_model, distilled, tmp_path):
    """Return a function that prepares a run with some share of distillation; None leaves the objective out."""

    def make(
        share: float | None, name: str = "run", teachers=None, report=lambda row: None, **settings
    ) -> Loop:
        rows, all_teachers = distilled
        objective = None
        if share is not None:
            cache = tmp_path / name / "teacher.pt"
            objective = Distillation(share, all_teachers if teachers is None else teachers, cache)
        chosen = replace(SETTINGS, **settings)
        return Loop(new_model(), 0, rows, chosen, tmp_path / name, lambda: 0.0, report, objective)

    return make


def _divergence(loop: Loop, teachers, name) -> float:
    """The mean KL, in nats, from the teacher to the model as it is, over all answer tokens."""
    objective = Distillation(1.0, teachers, loop.checkpoints.with_name(f"{name}.pt"))
    objective._soft = loop._objective._soft
    with torch.no_grad():
        total = objective.losses(loop.engine, range(len(loop.rows)), loop.rows, None).sum()
    return float(total) / objective.size(loop.rows)


def test_distillation_brings_the_model_nearer_to_its_teacher(make_run, distilled) -> None:
    loop = make_run(1.0, epochs=30, learning_rate=1e-2)
    loop._objective.prepare(loop.engine)
    assert loop._objective.num_spoken == 40, "the teacher finds its own answers likeliest"
    before = _divergence(loop, distilled[1], "before")
    losses = [row["loss"] for row in loop.run().history]
    assert losses[0] == pytest.approx(before, rel=0.5)
    assert _divergence(loop, distilled[1], "after") < 0.1 * before


def test_the_loss_is_the_mixture_of_both(new_model, distilled, tmp_path) -> None:
    rows, teachers = distilled
    engine = FusedEngine(new_model(), 0, torch.float32)
    values = []
    for share in (1e-9, 0.25, 1.0):
        objective = Distillation(share, teachers, tmp_path / f"{share}.pt")
        objective.prepare(engine)
        values.append(objective.losses(engine, range(8), rows, None).sum().item())
    assert values[0] == pytest.approx(engine.token_losses(rows, None).sum().item(), rel=1e-5)
    assert values[1] == pytest.approx(0.75 * values[0] + 0.25 * values[2], rel=1e-5)
    assert values[2] < values[0]


def test_rows_without_a_teacher_are_trained_as_ever_to_the_last_bit(make_run, distilled) -> None:
    plain, silent = make_run(None, "plain"), make_run(0.5, "silent", teachers=[None] * 8)
    assert isinstance(plain._objective, CrossEntropy)
    assert [row["loss"] for row in plain.run().history] == [row["loss"] for row in silent.run().history]
    expected = trained_state(plain.model)
    assert all(torch.equal(value, expected[name]) for name, value in trained_state(silent.model).items())


def test_of_two_rows_the_one_without_a_teacher_keeps_its_cross_entropy(
    new_model, distilled, tmp_path
) -> None:
    rows, teachers = distilled
    engine = FusedEngine(new_model(), 0, torch.float32)
    objective = Distillation(1.0, [teachers[0], None], tmp_path / "teacher.pt")
    objective.prepare(engine)
    both = objective.losses(engine, [0, 1], rows[:2], None).sum().item()
    apart = (
        objective.losses(engine, [0], rows[:1], None).sum().item()
        + engine.token_losses(rows[1:2], None).sum().item()
    )
    assert both == pytest.approx(apart, rel=1e-5)


def test_a_killed_run_goes_on_with_what_its_teacher_said_and_ends_with_the_same_bits(make_run) -> None:
    straight = make_run(0.5, "straight")
    straight.run()
    with pytest.raises(Killed):
        make_run(0.5, "killed", report=_kill_at(3), checkpoint_seconds=1e-9).run()
    resumed = make_run(0.5, "killed")
    resumed._engine.top_probs = lambda rows, count: pytest.fail("the teacher was asked again")
    resumed.run()
    expected = trained_state(straight.model)
    assert all(torch.equal(value, expected[name]) for name, value in trained_state(resumed.model).items())


def test_a_killed_run_on_preferences_compares_with_the_same_model(new_model, pairs, tmp_path) -> None:
    def run(name: str, report=lambda row: None) -> dict[str, torch.Tensor]:
        model = new_model(trained=True)
        settings = replace(SETTINGS, epochs=4, batch_size=2, checkpoint_seconds=1e-9)
        objective = Preference(*pairs, BETA)
        Loop(model, 0, pairs[0], settings, tmp_path / name, lambda: 0.0, report, objective).run()
        return trained_state(model)

    expected = run("straight")
    with pytest.raises(Killed):
        run("killed", _kill_at(5))
    assert all(torch.equal(value, expected[name]) for name, value in run("killed").items())


def test_both_engines_give_the_same_margin(new_model, pairs) -> None:
    model = new_model(trained=True)
    with torch.no_grad():
        values = [
            float(margin(_engine(kind, model), pairs[0][0], pairs[1][0])) for kind in ("fused", "plain")
        ]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_of_its_own_answers_a_model_learns_nothing_new(new_model, distilled, tmp_path) -> None:
    _, said = distilled
    model = new_model()
    engine = FusedEngine(model, 0, torch.float32)
    objective = Distillation(0.0, said, tmp_path / "teacher.pt", own=range(len(said)))
    objective.prepare(engine)
    assert objective.num_spoken == sum(map(num_labels, said))
    losses = objective.losses(engine, range(len(said)), said, None)
    assert float(losses.detach().abs().max()) < 1e-4, "it says what it says"
    assert float(engine.token_losses(said, None).detach().min()) > 0.01, "their tokens would make it surer"
    losses.sum().backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-3
