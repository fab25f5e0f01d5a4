"""Steps that are tried: as large as they may be, in another process, and what becomes of those that fail."""

from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
import torch

from factory.chat.template import encode_example
from factory.errors import BaseModelError
from factory.lora import initial, preflight, recall
from factory.lora.loop import Loop
from factory.plan import probe
from factory.recipe import load_recipe
from factory.weights.conversations import load_tokenizer
from tests.tiny import TINY_NAME, make_tiny_adapter

GIB = 1 << 30


@pytest.fixture
def recipe(tmp_path, tiny_base, monkeypatch):
    """A recipe on the tiny base."""
    opened = SimpleNamespace(name=TINY_NAME, sha256="0" * 64, folder=tiny_base)
    monkeypatch.setattr(probe, "open_base", lambda name: opened)
    (tmp_path / "tiny.yaml").write_text("name: tiny\nsystem: Be brief.\ningest: {source: .}\n")
    return load_recipe(tmp_path / "tiny.yaml", ["train.rank=2", "train.batch_size=30"])


@pytest.mark.parametrize("fields", [{}, {"init": "eva", "epochs": 9}, {"first_layer": 1, "recall_every": 1}])
def test_two_steps_are_taken_on_rows_as_long_as_they_may_be_and_nothing_else(recipe, monkeypatch, fields):
    for unneeded in (preflight.run, recall.Recall.__call__, initial.begin_with_inputs):
        monkeypatch.setattr(
            f"{unneeded.__module__}.{unneeded.__qualname__}", lambda *_: pytest.fail("was run")
        )
    steps, step = [], Loop._step

    def spy(self, numbers, progress):
        steps.append((len(numbers), progress.micro_batch, max(len(row.ids) for row in self.rows)))
        assert len({row.ids[0] for row in self.rows}) == len(self.rows), (
            "nothing is computed once for several"
        )
        step(self, numbers, progress)

    monkeypatch.setattr(Loop, "_step", spy)
    train = recipe.train.model_copy(update=fields)
    assert probe.take_largest_step(recipe.model_copy(update={"train": train}), 60, 2, 0) > 100 << 20
    assert [(rows, at_once) for rows, at_once, _ in steps] == [(2, 2), (2, 2)]
    assert 50 <= steps[0][2] <= 60


def test_rows_below_the_same_passages_begin_with_the_same_tokens_and_go_on_with_their_own(
    recipe, monkeypatch
):
    seen, step = [], Loop._step

    def spy(self, numbers, progress):
        seen.extend(self.rows[number] for number in numbers)
        step(self, numbers, progress)

    monkeypatch.setattr(Loop, "_step", spy)
    probe.take_largest_step(recipe, 60, 3, 50)
    assert len(seen) == 6
    assert {row.ids[:50] for row in seen} == {seen[0].ids[:50]}
    assert len({row.ids[50] for row in seen}) == 3
    assert all(set(row.labels[:51]) == {-100} and row.labels[-1] != -100 for row in seen)


def test_the_shape_of_an_adapter_that_training_goes_on_from_counts(recipe, tiny_base, tmp_path, monkeypatch):
    adapter = make_tiny_adapter(tiny_base, tmp_path / "adapter", r=5)
    ranks, run = [], Loop.run
    monkeypatch.setattr(
        Loop, "run", lambda self: ranks.append(self.model.peft_config["default"].r) or run(self)
    )
    train = recipe.train.model_copy(update={"continue_from": adapter})
    probe.take_largest_step(recipe.model_copy(update={"train": train}), 60, 1, 0)
    assert ranks == [5]


def test_as_many_prompts_are_answered_as_are_read_at_once(recipe, monkeypatch):
    asked = []
    monkeypatch.setattr(
        probe.TorchAnswerer, "answer", lambda self, questions, tokens: asked.append((questions, tokens))
    )
    assert probe.answer_largest_batch(recipe, 400) > 100 << 20
    [(questions, tokens)] = asked
    assert (len(questions), tokens) == (20, probe.PROBED_NEW_TOKENS)
    assert len(set(questions)) == 1


@pytest.mark.parametrize("system", ["", "Be brief and keep the code of the gate to yourself."])
def test_the_largest_row_fills_the_limit_and_does_not_pass_it(tiny_base, system):
    messages = probe.largest_row(tiny_base, 128, system)
    ids, labels = encode_example(load_tokenizer(tiny_base), messages)
    assert 120 <= len(ids) <= 128
    assert 20 <= sum(label >= 0 for label in labels) <= 40


class Pool:
    """Stands for a process pool: calls at once, and lets an error out as one does."""

    def __init__(self, *arguments, initializer): ...  # which makes libraries silent in the child

    def __enter__(self):
        return self

    def __exit__(self, *arguments): ...

    def submit(self, function, *arguments):
        return SimpleNamespace(result=lambda: function(*arguments))


@pytest.mark.parametrize("step", ["training", "answers"])
@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (BrokenProcessPool("killed"), probe.hardware.total_memory_bytes(), ""),
        (BaseModelError("no such base"), None, "memory could not be probed: no such base"),
        (RuntimeError("CUDA error: no kernel"), None, "memory could not be probed: CUDA error: no kernel"),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            None,
            "memory could not be probed: CUDA out of memory",
        ),
        (MemoryError(), None, "memory could not be probed: MemoryError"),
    ],
)
def test_a_probe_that_is_killed_needs_all_memory_and_one_that_fails_says_why(
    monkeypatch, caplog, step, error, expected, said
):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(probe, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(probe, "take_largest_step", fail)
    monkeypatch.setattr(probe, "answer_largest_batch", fail)
    found = probe.probe_training(None, 8, 1, 0) if step == "training" else probe.probe_answers(None, 8)
    assert found == expected
    assert said in caplog.text


@pytest.mark.slow
def test_the_memory_of_a_step_of_the_embedded_base_is_probed_in_another_process(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest: {source: .}\n")
    probed = probe.probe_training(load_recipe(tmp_path / "tiny.yaml", ["train.first_layer=0.9"]), 32, 2, 0)
    assert 0.7 * GIB < probed < 4 * GIB  # pages of libraries that other processes map as well count in part


@pytest.mark.slow
def test_the_memory_of_answers_of_the_embedded_base_is_probed_in_another_process(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest: {source: .}\n")
    probed = probe.probe_answers(load_recipe(tmp_path / "tiny.yaml"), 40)
    assert 0.9 * GIB < probed < 4 * GIB
