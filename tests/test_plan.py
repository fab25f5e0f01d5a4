"""Plans: verdicts, memory that grows with what needs it, and how much there is to train on."""

import json
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from factory import plan, store
from factory.pipeline import STEPS, Run
from factory.recipe import load_recipe
from factory.rows import Example, Message, write_rows

GIB = 1 << 30
SMOLLM2 = {
    "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152,
}  # fmt: skip


@pytest.fixture
def base(tmp_path):
    """The folder of a base with SmolLM2-135M's shape and a tokenizer that makes a token of every word."""
    folder = tmp_path / "base"
    folder.mkdir()
    store.write_json(folder / "config.json", SMOLLM2)
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def make_run(tmp_path, base, monkeypatch):
    """Return a function that opens a run of a tiny recipe without loading a model or measuring the CPU."""
    monkeypatch.setattr(plan, "probe_flops", lambda: 1e11)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x" * 8000)
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest:\n  source: docs\n")

    def make(*overrides):
        run = Run(load_recipe(tmp_path / "tiny.yaml", list(overrides)), tmp_path / "out", print)
        run._base = SimpleNamespace(name="tiny-base", sha256="0" * 64, folder=base)
        return run

    return make


def example(number, fact, words=4):
    messages = (Message(role="user", content="w " * words), Message(role="assistant", content="one two"))
    return Example(id=str(number), form="x", messages=messages, facts=(fact,) if fact else ())


def test_a_bases_size_is_counted_from_its_shape(base):
    shape = plan._shape(base)
    assert shape["parameters"] == pytest.approx(134_515_008, rel=1e-3)  # transformers' count, norms included
    assert shape["parameters_a_rank"] * 16 == 4_884_480  # peft's count for all seven modules at rank 16


def test_predicted_memory_grows_with_rank_rows_and_their_length_and_shrinks_with_frozen_layers(base):
    shape = plan._shape(base)
    small = plan.predict_memory(shape, 8, 4, 128)
    assert 1.2 * GIB < small < 3 * GIB
    assert plan.predict_memory(shape, 64, 4, 128) - small == pytest.approx(1.15 * 16 * 56 * 305_280)
    assert plan.predict_memory(shape, 8, 8, 128) > small
    assert plan.predict_memory(shape, 8, 4, 256) > small
    assert plan.predict_memory(shape, 8, 4, 128, trained_share=0.33) < small


def test_a_plan_asks_for_more_memory_for_a_larger_rank_and_batch(make_run):
    def memory(*overrides):
        return plan.make_plan(make_run("train.rank=8", "train.batch_size=4", *overrides))["memory_gib"][
            "predicted"
        ]

    plain = memory()
    assert memory("train.rank=256") > plain
    assert memory("train.batch_size=16") > plain
    assert memory("train.batch_size=64") == memory("train.batch_size=16"), "micro_batch bounds rows in memory"
    assert memory("train.batch_size=64", "train.micro_batch=64") > memory("train.batch_size=16")


@pytest.mark.parametrize(
    ("memory", "disk", "verdict"),
    [
        (1, 1, "fits"), (7.9, 7.9, "fits"), (8.1, 1, "tight"), (1, 8.1, "tight"), (10.1, 1, "does not fit"),
        (1, 10.1, "does not fit"),
    ],
)  # fmt: skip
def test_verdicts(memory, disk, verdict):
    assert plan._verdict(memory, 10, disk, 10) == verdict


@pytest.mark.parametrize(("available", "verdict"), [(64 * GIB, "fits"), (GIB // 2, "does not fit")])
def test_the_verdict_is_about_this_machine(make_run, monkeypatch, available, verdict):
    monkeypatch.setattr(plan.hardware, "available_memory_bytes", lambda: available)
    monkeypatch.setattr(plan.hardware, "free_disk_bytes", lambda path: 100 * GIB)
    assert plan.make_plan(make_run())["verdict"] == verdict


def test_an_epoch_has_one_row_a_fact_or_passage(tmp_path, base):
    rows = [example(1, "a"), example(2, "a"), example(3, "b"), example(4, None), example(5, None)]
    write_rows(tmp_path / "train.jsonl", rows)
    assert plan.read_workload(tmp_path / "train.jsonl", base) == (4, 4 + 2 + 2 * plan.TURN_TOKENS)


def test_tokens_are_the_mean_over_an_even_sample_of_many_rows(tmp_path, base):
    rows = [example(number, str(number), words=number % 10) for number in range(3000)]
    write_rows(tmp_path / "train.jsonl", rows)
    num_rows, tokens = plan.read_workload(tmp_path / "train.jsonl", base)
    assert num_rows == 3000
    assert tokens == pytest.approx(4.5 + 2 + 2 * plan.TURN_TOKENS, abs=2.6)


def test_an_empty_dataset_is_no_work(tmp_path, base):
    write_rows(tmp_path / "train.jsonl", [])
    assert plan.read_workload(tmp_path / "train.jsonl", base) == (0, 0.0)


def test_a_plan_of_a_fresh_run_guesses_from_the_sources_and_runs_nothing(make_run, tmp_path):
    made = plan.make_plan(make_run())
    assert made["training"]["rows_an_epoch"] == 8000 // plan.BYTES_A_FACT
    assert [stage["status"] for stage in made["stages"]] == ["to do"] * len(STEPS)
    assert not (tmp_path / "out").exists()
    assert json.loads(json.dumps(made)) == made


def test_a_plan_uses_the_dataset_once_it_is_there(make_run, tmp_path):
    (tmp_path / "out" / "dataset").mkdir(parents=True)
    write_rows(tmp_path / "out" / "dataset" / "train.jsonl", [example(n, str(n // 2)) for n in range(20)])
    made = plan.make_plan(make_run())
    assert made["training"]["rows_an_epoch"] == 10
    assert made["training"]["tokens_a_row"] == 16.0


def test_time_grows_with_epochs_and_shrinks_with_frozen_layers(make_run):
    def minutes(*overrides):
        return plan.make_plan(make_run(*overrides))["training"]["minutes"]

    assert minutes("train.epochs=10") == pytest.approx(2 * minutes("train.epochs=5"), rel=0.05)
    assert minutes("train.epochs=10", "train.first_layer=0.67") < 0.5 * minutes("train.epochs=10")
    assert minutes("train.first_layer=15") == minutes("train.first_layer=0.5")


def test_the_text_of_a_plan_says_what_the_json_says(make_run):
    made = plan.make_plan(make_run())
    text = plan.describe(made)
    assert text.startswith("tiny on tiny-base (")
    assert f"verdict   {made['verdict']}" in text
    assert f"{made['memory_gib']['predicted']} GiB needed" in text
    assert text.count("to do") == len(STEPS)


@pytest.mark.slow
def test_the_probe_measures_a_plausible_speed():
    assert 1e8 < plan.probe_flops() < 1e14
