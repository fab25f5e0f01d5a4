"""Steps that are tried: as large as they may be, in another process, and what becomes of those that fail."""

from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest

from factory import artifacts
from factory.chat.template import encode_example
from factory.errors import BaseModelError
from factory.plan import probe
from factory.recipe import load_recipe
from factory.weights import base as bases
from factory.weights.conversations import load_tokenizer

GIB = 1 << 30


@pytest.fixture
def recipe(tmp_path, tiny_base, monkeypatch):
    """A recipe on the tiny base."""
    opened = SimpleNamespace(name="tiny", sha256="0" * 64, folder=tiny_base)
    monkeypatch.setattr(bases, "open_base", lambda name: opened)
    monkeypatch.setattr(probe, "open_base", lambda name: opened)
    (tmp_path / "tiny.yaml").write_text("name: tiny\nsystem: Be brief.\ningest: {source: .}\n")
    return load_recipe(tmp_path / "tiny.yaml", ["train.rank=2", "train.batch_size=30"])


def test_one_step_is_taken_on_rows_as_long_as_they_may_be(tmp_path, recipe):
    peak = probe.take_largest_step(recipe, 60, 2, tmp_path / "probe")
    assert peak > 100 << 20
    counts = artifacts.read_record(tmp_path / "probe" / "adapter").counts
    assert (counts["rows"], counts["rows_left_out"], counts["steps"], counts["micro_batch"]) == (2, 0, 1, 2)


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

    def __init__(self, *arguments): ...

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
    found = probe.probe_training(None, 8, 1) if step == "training" else probe.probe_answers(None, 8)
    assert found == expected
    assert said in caplog.text


@pytest.mark.slow
def test_the_memory_of_a_step_of_the_embedded_base_is_probed_in_another_process(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest: {source: .}\n")
    probed = probe.probe_training(load_recipe(tmp_path / "tiny.yaml", ["train.first_layer=0.9"]), 32, 2)
    assert 0.7 * GIB < probed < 4 * GIB  # pages of libraries that other processes map as well count in part


@pytest.mark.slow
def test_the_memory_of_answers_of_the_embedded_base_is_probed_in_another_process(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest: {source: .}\n")
    probed = probe.probe_answers(load_recipe(tmp_path / "tiny.yaml"), 40)
    assert 0.9 * GIB < probed < 4 * GIB
