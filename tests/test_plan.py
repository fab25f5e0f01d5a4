"""Plans: verdicts, memory that grows with what needs it, and how much there is to train on."""

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from factory import artifacts, plan, store
from factory.errors import BaseModelError
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
    """Return a function that opens a run of a tiny recipe without loading a model or measuring the machine."""
    monkeypatch.setattr(plan, "probe_flops", lambda train=None: 1e11)
    monkeypatch.setattr(plan, "probe_memory", lambda recipe: None)
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
    assert 1.2 * GIB < small - plan.LONG_RUN_BYTES < 3 * GIB
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


def test_a_probed_step_decides_where_it_is_cheap(make_run, monkeypatch):
    monkeypatch.setattr(plan.hardware, "available_memory_bytes", lambda: 64 * GIB)
    monkeypatch.setattr(plan, "probe_memory", lambda recipe: 60 * GIB)
    made = plan.make_plan(make_run())
    assert made["memory_gib"]["probed"] == 60.0
    assert made["memory_gib"]["predicted"] < 12
    assert made["verdict"] == "tight"
    assert "60.0 GiB in one step that was tried" in plan.describe(made)
    monkeypatch.setattr(plan, "PROBED_PARAMETERS", 1e8)
    assert plan.make_plan(make_run())["memory_gib"]["probed"] is None


def test_what_surely_does_not_fit_and_what_is_trained_already_is_not_probed(make_run, monkeypatch):
    monkeypatch.setattr(plan, "probe_memory", lambda recipe: pytest.fail("probed"))
    monkeypatch.setattr(plan.hardware, "available_memory_bytes", lambda: GIB // 2)
    assert plan.make_plan(make_run())["verdict"] == "does not fit"
    monkeypatch.setattr(plan.hardware, "available_memory_bytes", lambda: 64 * GIB)
    run = make_run()
    monkeypatch.setattr(run, "states", lambda: {step.stage: "up to date" for step in STEPS})
    made = plan.make_plan(run)
    assert made["minutes"] == 0
    assert {stage["seconds"] for stage in made["stages"]} == {0.0}
    assert "nothing is to do" in plan.describe(made)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory):
    from tests.tiny import make_tiny_base

    return make_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


def test_the_probe_takes_one_step_on_rows_as_long_as_they_may_be(tmp_path, tiny_base, monkeypatch):
    from factory.weights import base

    monkeypatch.setattr(
        base, "open_base", lambda name: SimpleNamespace(name=name, sha256="0" * 64, folder=tiny_base)
    )
    (tmp_path / "tiny.yaml").write_text("name: tiny\nsystem: Be brief.\ningest: {source: .}\n")
    changes = ["train.rank=2", "train.batch_size=3", "train.micro_batch=2", "train.max_tokens=60"]
    recipe = load_recipe(tmp_path / "tiny.yaml", changes)
    peak = plan.take_largest_step(recipe, tmp_path / "probe")
    assert peak > 100 << 20
    counts = artifacts.read_record(tmp_path / "probe" / "adapter").counts
    assert (counts["rows"], counts["rows_left_out"], counts["steps"]) == (2, 0, 1)


@pytest.mark.parametrize("system", ["", "Be brief and keep the code of the gate to yourself."])
def test_the_largest_row_fills_the_limit_and_does_not_pass_it(tiny_base, system):
    from factory.chat.template import encode_example
    from factory.weights.conversations import load_tokenizer

    messages = plan._largest_row(tiny_base, 128, system)
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


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (BrokenProcessPool("killed"), plan.hardware.total_memory_bytes(), ""),
        (BaseModelError("no such base"), None, "memory could not be probed: no such base"),
    ],
)
def test_a_probe_that_is_killed_needs_all_memory_and_one_that_fails_says_why(
    monkeypatch, caplog, error, expected, said
):
    def fail(recipe, out):
        raise error

    monkeypatch.setattr(plan, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(plan, "take_largest_step", fail)
    assert plan.probe_memory(None) == expected
    assert said in caplog.text


def test_a_base_of_another_shape_is_named(tmp_path):
    store.write_json(tmp_path / "config.json", {"n_embd": 768})
    with pytest.raises(BaseModelError, match=r"has no 'hidden_size' in its config.json"):
        plan._shape(tmp_path)


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
    frozen = ("train.epochs=10", "train.first_layer=0.67")
    assert minutes(*frozen, "train.wordings=1") < 0.5 * minutes("train.epochs=10")
    assert minutes(*frozen, "train.wordings=1") < minutes(*frozen, "train.wordings=10")
    assert minutes("train.first_layer=15") == minutes("train.first_layer=0.5")


def test_every_stage_has_a_time_that_grows_with_what_it_works_on(make_run, base, tmp_path):
    recipe, shape = make_run().recipe, plan._shape(base)
    small = plan.Workload(files=10, rows=100, tokens=36.0, questions=50)
    large = plan.Workload(files=20, rows=200, tokens=36.0, questions=100)
    fast, slower = plan.Speeds(1e11, 1e11), plan.Speeds(5e10, 5e10)
    first, second = (plan.estimate_seconds(recipe, shape, work, fast) for work in (small, large))
    assert list(first) == [step.stage for step in STEPS]
    for stage in ("ingest", "chunk", "synthesize", "curate", "train"):
        assert second[stage] == pytest.approx(2 * first[stage])
    assert second["evaluate"] > first["evaluate"]
    slow = plan.estimate_seconds(recipe, shape, small, slower)
    for stage in ("train", "merge", "quantize", "verify", "evaluate", "export"):
        assert slow[stage] == pytest.approx(2 * first[stage])


def test_the_quickstart_is_estimated_as_it_was_measured(base):
    recipe = load_recipe(Path("recipes/quickstart.yaml"))
    work = plan.Workload(files=37, rows=814, tokens=32.4, questions=306)
    seconds = plan.estimate_seconds(recipe, plan._shape(base), work, plan.Speeds(132e9, plan.MEASURED_FLOPS))
    measured = {
        "curate": 2.5,
        "train": 727,
        "merge": 1.9,
        "quantize": 22,
        "verify": 31,
        "evaluate": 256,
        "export": 1.3,
    }
    for stage, took in measured.items():
        assert seconds[stage] == pytest.approx(took, rel=0.2), stage


def test_a_stage_after_one_that_is_to_do_is_to_do(make_run, monkeypatch):
    run = make_run()
    monkeypatch.setattr(run, "status", lambda step: "to do" if step.stage == "curate" else "up to date")
    made = {stage["name"]: stage for stage in plan.make_plan(run)["stages"]}
    assert [name for name, stage in made.items() if stage["status"] == "up to date"] == [
        "ingest",
        "chunk",
        "synthesize",
    ]
    assert made["chunk"]["seconds"] == 0
    assert made["train"]["seconds"] > 0


def test_the_text_of_a_plan_says_what_the_json_says(make_run):
    made = plan.make_plan(make_run())
    text = plan.describe(made)
    assert text.startswith("tiny on tiny-base (")
    assert f"verdict   {made['verdict']}" in text
    assert f"{made['memory_gib']['predicted']} GiB needed" in text
    assert text.count(" to do ") == len(STEPS)
    assert f"about {made['minutes']} minutes for what is to do" in text
    assert made["minutes"] == pytest.approx(sum(stage["seconds"] for stage in made["stages"]) / 60, abs=0.1)


@pytest.mark.slow
def test_the_probe_measures_a_plausible_speed():
    assert 1e8 < plan.probe_flops() < 1e14


@pytest.mark.slow
def test_the_memory_of_a_step_of_the_embedded_base_is_probed_in_another_process(tmp_path):
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest: {source: .}\n")
    changes = ["train.batch_size=2", "train.max_tokens=32", "train.first_layer=0.9"]
    probed = plan.probe_memory(load_recipe(tmp_path / "tiny.yaml", changes))
    assert 0.7 * GIB < probed < 4 * GIB  # pages of libraries that other processes map as well count in part
