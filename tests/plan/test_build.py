"""Plans: verdicts, memory that grows with what needs it, and what a tried step corrects."""

import json

import pytest

from factory.chat.context import with_context
from factory.lora import memory
from factory.lora.config import MANY_FACTS, RANK_FOR_MANY
from factory.pipeline import STEPS
from factory.plan import build, workload
from factory.plan.workload import BYTES_A_FACT
from factory.rows import OPEN_BOOK, Message, write_rows

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch):
    monkeypatch.setattr(build.attach, "pick_device", lambda: "cpu")
    monkeypatch.setattr(build.fit, "available_bytes", lambda device: 64 * GIB)
    monkeypatch.setattr(build.hardware, "free_disk_bytes", lambda path: 100 * GIB)


def test_a_plan_asks_for_more_memory_for_a_larger_rank_and_batch(make_run):
    def needed(*overrides):
        run = make_run("train.rank=8", "train.batch_size=16", *overrides)
        return build.make_plan(run)["memory_gib"]["training"]["predicted"]

    plain = needed()
    assert needed("train.rank=256") > plain
    assert needed("train.batch_size=64") > plain
    assert needed("train.batch_size=64", "train.micro_batch=16") == plain, "micro_batch bounds rows in memory"


def test_many_facts_get_a_larger_rank_here_as_in_training(make_run, tmp_path):
    few = build.make_plan(make_run())
    (tmp_path / "docs" / "a.txt").write_text("x" * BYTES_A_FACT * MANY_FACTS)
    many = build.make_plan(make_run("train.batch_size=16"))
    assert (few["training"]["rank"], many["training"]["rank"]) == (32, RANK_FOR_MANY)
    adapters = [plan["memory_gib"]["training"]["parts"]["adapter"] for plan in (few, many)]
    assert adapters[1] == pytest.approx(RANK_FOR_MANY / 32 * adapters[0], rel=0.02)


def test_rows_at_once_shrink_with_the_memory_and_the_rows_of_a_step_stay(make_run, monkeypatch):
    def training(available):
        monkeypatch.setattr(build.fit, "available_bytes", lambda device: int(available * GIB))
        return build.make_plan(make_run("train.batch_size=32", "train.precision=float32"))

    roomy, narrow = training(64), training(7)
    assert (roomy["training"]["micro_batch"], roomy["training"]["accumulation"]) == (32, 1)
    rows, times = narrow["training"]["micro_batch"], narrow["training"]["accumulation"]
    assert 1 <= rows < 32 <= rows * times
    assert narrow["memory_gib"]["training"]["predicted"] <= 7
    assert narrow["verdict"] != "does not fit"


@pytest.mark.parametrize(
    ("needed", "disk", "verdict"),
    [
        (1, 1, "fits"), (7.9, 7.9, "fits"), (8.1, 1, "tight"), (1, 8.1, "tight"), (10.1, 1, "does not fit"),
        (1, 10.1, "does not fit"),
    ],
)  # fmt: skip
def test_verdicts(needed, disk, verdict):
    assert build._verdict(needed, 10, disk, 10) == verdict


@pytest.mark.parametrize(("available", "verdict"), [(64 * GIB, "fits"), (GIB // 2, "does not fit")])
def test_the_verdict_is_about_this_machine(make_run, monkeypatch, available, verdict):
    monkeypatch.setattr(build.fit, "available_bytes", lambda device: available)
    assert build.make_plan(make_run())["verdict"] == verdict


@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_a_step_that_was_tried_corrects_the_prediction(make_run, monkeypatch, stage):
    name = {"training": "probe_training", "evaluation": "probe_answers"}[stage]
    monkeypatch.setattr(build, name, lambda *arguments: 60 * GIB)
    made = build.make_plan(make_run())
    assert made["memory_gib"][stage]["probed"] == 60.0
    assert made["memory_gib"][stage]["predicted"] < 12
    assert made["memory_gib"]["needed"] == 60.0 + (stage == "training") * memory.LONG_RUN_BYTES / GIB
    assert made["verdict"] == "tight"
    monkeypatch.setattr(build, "PROBED_PARAMETERS", 1e8)
    assert build.make_plan(make_run())["memory_gib"][stage]["probed"] is None


def test_a_step_that_took_less_than_predicted_counts_as_it_was(make_run, monkeypatch):
    monkeypatch.setattr(build, "probe_training", lambda *arguments: GIB)
    monkeypatch.setattr(build, "probe_answers", lambda *arguments: GIB)
    needed = build.make_plan(make_run())["memory_gib"]["needed"]
    assert needed == pytest.approx(1 + memory.LONG_RUN_BYTES / GIB)


def test_the_largest_step_and_the_longest_prompts_are_tried(make_run, monkeypatch):
    tried = {}
    monkeypatch.setattr(build, "probe_training", lambda recipe, *sizes: tried.update(training=sizes))
    monkeypatch.setattr(build, "probe_answers", lambda recipe, *sizes: tried.update(answers=sizes))
    build.make_plan(make_run("train.max_tokens=200", "train.batch_size=4", "chunk.max_tokens=300"))
    assert tried == {"training": (200, 4, 0), "answers": (300 + build.QUESTION_TOKENS,)}
    build.make_plan(make_run("evaluate.rag=false"))
    assert tried["answers"] == (build.QUESTION_TOKENS,)


def test_pairs_of_answers_are_two_rows_each_as_long_as_they_may_be(make_run, monkeypatch, tmp_path):
    tried = []
    monkeypatch.setattr(build, "probe_training", lambda recipe, *sizes: tried.append(sizes))
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Who?", "chosen": "Ada", "rejected": "Bob"}')
    options = ("train.max_tokens=200", "train.batch_size=4")
    alone, both = (
        build.make_plan(make_run(*options, *more)) for more in ((), ("train.preferences=pairs.jsonl",))
    )
    assert tried == [(200, 4, 0), (200, 8, 0)]
    parts = [plan["memory_gib"]["training"]["parts"]["activations"] for plan in (alone, both)]
    assert parts[1] == pytest.approx(2 * parts[0], rel=0.01)


def test_every_choice_that_costs_or_saves_memory_counts(make_run):
    def needed(*overrides):
        return build.make_plan(make_run(*overrides))["memory_gib"]["training"]["predicted"]

    plain = needed("train.dropout=0.1")
    assert needed("train.checkpointing=true") < plain
    assert needed("train.variant=dora") > needed("train.compile=true")
    assert needed("train.layers=[29]") < needed()
    assert needed("train.rank_pattern={q_proj: 512}") > needed()


def test_what_surely_does_not_fit_and_what_is_made_already_is_not_tried(make_run, monkeypatch):
    for name in ("probe_training", "probe_answers"):
        monkeypatch.setattr(build, name, lambda *arguments: pytest.fail("probed"))
    run = make_run()
    monkeypatch.setattr(run, "states", lambda: {step.stage: "up to date" for step in STEPS})
    made = build.make_plan(run)
    assert made["minutes"] == 0
    assert {stage["seconds"] for stage in made["stages"]} == {0.0}
    monkeypatch.setattr(build.fit, "available_bytes", lambda device: GIB // 2)
    assert build.make_plan(make_run())["verdict"] == "does not fit"


def test_a_plan_of_a_fresh_run_runs_nothing_and_is_json(make_run, tmp_path):
    made = build.make_plan(make_run())
    assert [stage["status"] for stage in made["stages"]] == ["to do"] * len(STEPS)
    assert not (tmp_path / "out").exists()
    assert json.loads(json.dumps(made)) == made


def test_the_parts_add_up_to_what_is_predicted(make_run):
    gib = build.make_plan(make_run("train.first_layer=0.5"))["memory_gib"]
    for stage in ("training", "evaluation"):
        assert sum(gib[stage]["parts"].values()) == pytest.approx(gib[stage]["predicted"], abs=0.02)
        assert gib[stage]["parts"]["weights"] > 0.2
    assert gib["training"]["parts"]["optimizer"] > 0 == gib["evaluation"]["parts"]["optimizer"]


def test_a_plan_uses_the_dataset_once_it_is_there(make_run, tmp_path, example):
    (tmp_path / "out" / "dataset").mkdir(parents=True)
    rows = [example(number, str(number // 2), words=10 if number == 7 else 4) for number in range(20)]
    write_rows(tmp_path / "out" / "dataset" / "train.jsonl", rows)
    training = build.make_plan(make_run())["training"]
    assert (training["rows_an_epoch"], training["tokens_a_row"], training["longest_row"]) == (10, 16.3, 22)


def test_passages_of_a_dataset_that_rows_share_are_tried_and_count_once(
    make_run, tmp_path, example, monkeypatch
):
    tried = []
    monkeypatch.setattr(build, "probe_training", lambda recipe, *sizes: tried.append(sizes))
    (tmp_path / "out" / "dataset").mkdir(parents=True)

    def below(number):
        row = example(number, "e", words=4)
        turn = with_context(["p " * 150], row.messages[0].content)
        return row.model_copy(
            update={"form": OPEN_BOOK, "messages": (Message(role="user", content=turn), row.messages[1])}
        )

    write_rows(tmp_path / "out" / "dataset" / "train.jsonl", [example(9, "a"), *map(below, range(4))])
    once = build.make_plan(make_run("train.batch_size=16"))
    monkeypatch.setattr(workload, "_below", lambda *arguments: None)
    each = build.make_plan(make_run("train.batch_size=16"))
    (tokens, rows, shared), (longest, *others) = tried
    assert rows == 16
    assert others == [16, 0]
    assert 150 <= shared < longest <= tokens <= longest + 4 * workload.TURN_TOKENS
    needed = [plan["memory_gib"]["training"]["parts"]["activations"] for plan in (once, each)]
    assert needed[0] < 0.5 * needed[1]


def test_time_grows_with_epochs_and_shrinks_with_frozen_layers(make_run):
    def minutes(*overrides):
        run = make_run("train.retain=0", *overrides)  # no look beside it
        return build.make_plan(run)["training"]["minutes"]

    assert minutes("train.epochs=10") == pytest.approx(2 * minutes("train.epochs=5"), rel=0.05)
    frozen = ("train.epochs=10", "train.first_layer=0.67")
    assert minutes(*frozen, "train.wordings=1") < 0.5 * minutes("train.epochs=10")
    assert minutes(*frozen, "train.wordings=1") < minutes(*frozen, "train.wordings=10")
    assert minutes("train.first_layer=15") == minutes("train.first_layer=0.5")


def test_a_stage_after_one_that_is_to_do_is_to_do(make_run, monkeypatch):
    run = make_run()
    monkeypatch.setattr(run, "status", lambda step: "to do" if step.stage == "curate" else "up to date")
    made = {stage["name"]: stage for stage in build.make_plan(run)["stages"]}
    assert [name for name, stage in made.items() if stage["status"] == "up to date"] == [
        "ingest",
        "chunk",
        "synthesize",
    ]
    assert made["chunk"]["seconds"] == 0
    assert made["train"]["seconds"] > 0
