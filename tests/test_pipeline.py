"""The pipeline with small fakes for its stages: order, what is redone, failures, gates, a second run."""

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from factory import pipeline, store
from factory.errors import ArtifactError, GateError, SynthesizeError, UsageError
from factory.pipeline import Run, Step
from factory.recipe import load_recipe

NAMES = ("ingest", "chunk", "synthesize", "curate", "train", "verify")


class Factory:
    """A folder with sources and a recipe, and fake stages that note when they run."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.ran, self.said, self.fail, self.gates = folder, [], [], None, []
        (folder / "docs").mkdir()
        (folder / "docs" / "a.txt").write_text("alpha")
        (folder / "recipe.yaml").write_text("name: tiny\ningest:\n  source: docs\n")
        self._monkeypatch = monkeypatch
        self.set_steps()

    def set_steps(self, **versions):
        def step(name, folder, *inputs, uses=()):
            run, version = self._fake(name, inputs), versions.get(name, 1)
            return Step(name, folder, run, version, inputs, uses=uses, together=name == "train")

        steps = (
            step("ingest", "corpus"),
            step("chunk", "chunks", "corpus"),
            step("synthesize", "examples", "chunks", uses=("system",)),
            step("curate", "dataset", "examples", uses=("seed",)),
            step("train", "adapter", "dataset", uses=("seed",)),
            step("verify", "checks", "adapter"),
        )
        self._monkeypatch.setattr(pipeline, "STEPS", steps)

    def _fake(self, name, inputs):
        def run(config, *, work, **given):
            self.ran.append(name)
            if self.fail == name:
                raise SynthesizeError(f"{name} cannot")
            if name == "ingest":
                assert given.keys() == {"previous", "workers"}
                text = "".join(path.read_text() for path in sorted(config.source.iterdir()))
            else:
                text = "".join((given[key] / "rows.txt").read_text() for key in inputs)
            settings = config.model_dump_json() if name in {"train", "curate"} else ""
            text = text.strip() if name == "chunk" else text  # blank space changes the corpus, not its chunks
            store.write_text(
                work / "rows.txt", f"{text}{settings}{given.get('seed', '')}{given.get('system', '')}"
            )
            if name == "verify":
                store.write_json(work / "gates.json", self.gates)
            return {"rows": len(text), "by_kind": {"x": 1}}

        return run

    def run(self, *overrides, only=None, out="out"):
        self.ran.clear()
        self.said.clear()
        recipe = load_recipe(self.folder / "recipe.yaml", list(overrides))
        return Run(recipe, self.folder / out, self.said.append).execute(only)

    def states(self, *overrides):
        run = Run(load_recipe(self.folder / "recipe.yaml", list(overrides)), self.folder / "out", print)
        return [run.status(step) for step in pipeline.STEPS]


@pytest.fixture
def factory(tmp_path, monkeypatch):
    return Factory(tmp_path, monkeypatch)


def statuses(outcome):
    return [stage.status for stage in outcome.stages]


def test_the_real_stages_stand_in_the_order_of_the_flow():
    flow = "ingest chunk synthesize curate train merge quantize verify evaluate export".split()  # noqa: SIM905
    assert list(pipeline.STAGES) == flow
    made = [step.folder for step in pipeline.STEPS]
    assert len(set(made)) == len(made)
    for number, step in enumerate(pipeline.STEPS):
        assert set(step.inputs) <= set(made[:number])
        assert step.code_version >= 1


@pytest.mark.parametrize("step", pipeline.STEPS, ids=pipeline.STAGES)
def test_every_stage_is_given_what_it_takes(step):
    takes = {
        name
        for name, value in inspect.signature(step.run).parameters.items()
        if value.kind == value.KEYWORD_ONLY
    }
    given = {*step.inputs, *step.uses, "work", *(["base"] if step.base else [])}
    assert takes == given | ({"previous", "workers"} if step.stage == "ingest" else set())


def test_all_stages_run_in_order_and_a_second_run_is_up_to_date(factory):
    first = factory.run()
    assert factory.ran == list(NAMES)
    assert statuses(first) == ["done"] * 6
    assert first.error is None
    assert factory.said[0].startswith("ingest")
    assert "rows 5" in factory.said[0]
    second = factory.run()
    assert factory.ran == []
    assert statuses(second) == ["up to date"] * 6
    assert factory.said == [f"{name:<11} up to date" for name in NAMES]
    assert [stage.seconds for stage in second.stages] == [stage.seconds for stage in first.stages]


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("seed=8", ["curate", "train", "verify"]),
        ("system=Be brief.", ["synthesize", "curate", "train", "verify"]),
        ("train.rank=8", ["train", "verify"]),
        ("curate.test_questions=9", ["curate", "train", "verify"]),
        ("name=other", []),
        ("train.micro_batch=2", []),
        ("train.device=cpu", []),
        ("train.checkpoint_seconds=5", []),
        ("ingest.timeout_s=5", []),
        ("quantize.threads=1", []),
    ],
)
def test_only_what_depends_on_a_change_is_redone(factory, override, redone):
    factory.run()
    planned = dict(zip(NAMES, factory.states(override), strict=True))
    assert [name for name in NAMES if planned[name] == "to do"][:1] == redone[:1]
    factory.run(override)
    assert factory.ran == redone


def test_a_new_code_version_redoes_its_stage_and_stops_where_the_result_is_the_same(factory):
    factory.run()
    factory.set_steps(synthesize=2)
    factory.run()
    assert factory.ran == ["synthesize"]


def test_a_changed_source_is_read_again_and_a_change_without_effect_stops_early(factory):
    factory.run()
    (factory.folder / "docs" / "a.txt").write_text("alpha  ")
    outcome = factory.run()
    assert factory.ran == ["ingest", "chunk"]
    assert statuses(outcome) == ["done", "done", *["up to date"] * 4]
    (factory.folder / "docs" / "b.txt").write_text("beta")
    factory.run()
    assert factory.ran == list(NAMES)


def test_touching_or_moving_the_sources_changes_nothing(factory):
    factory.run()
    (factory.folder / "docs").rename(factory.folder / "papers")
    (factory.folder / "papers" / "a.txt").touch()
    factory.run(f"ingest.source={factory.folder / 'papers'}")
    assert factory.ran == []


def test_the_output_folder_can_be_moved(factory):
    factory.run()
    (factory.folder / "out").rename(factory.folder / "moved")
    factory.run(out="moved")
    assert factory.ran == []


def test_a_teachers_file_counts_by_its_bytes_not_its_path(factory):
    (factory.folder / "one.gguf").write_text("weights")
    (factory.folder / "two.gguf").write_text("weights")
    factory.run(f"synthesize.teacher.gguf={factory.folder / 'one.gguf'}")
    factory.run(f"synthesize.teacher.gguf={factory.folder / 'two.gguf'}")
    assert factory.ran == []
    (factory.folder / "two.gguf").write_text("others")
    factory.run(f"synthesize.teacher.gguf={factory.folder / 'two.gguf'}")
    assert factory.ran == ["synthesize"]


def test_an_adapter_that_training_goes_on_from_counts_by_its_bytes_wherever_it_lies(factory):
    def make(place, weights):
        folder = factory.folder / place
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_text(weights)

    make("plain", "one")
    make("bundle/adapter", "one")
    make("other", "two")
    factory.run()
    assert factory.ran
    factory.run(f"train.continue_from={factory.folder / 'plain'}")
    assert factory.ran == ["train"]
    factory.run(f"train.continue_from={factory.folder / 'bundle'}")
    assert factory.ran == []
    factory.run(f"train.continue_from={factory.folder / 'other'}")
    assert factory.ran == ["train"]
    error = str(factory.run(f"train.continue_from={factory.folder / 'gone'}").error)
    assert "holds no adapter: check train.continue_from in the recipe" in error


def test_feedback_counts_by_its_bytes_and_only_when_it_is_named(factory):
    factory.run()
    (factory.folder / "one.jsonl").write_text("rows")
    (factory.folder / "two.jsonl").write_text("rows")
    factory.run(f"synthesize.feedback={factory.folder / 'one.jsonl'}")
    assert factory.ran == ["synthesize"]
    factory.run(f"synthesize.feedback={factory.folder / 'two.jsonl'}")
    assert factory.ran == []
    (factory.folder / "two.jsonl").write_text("more rows")
    factory.run(f"synthesize.feedback={factory.folder / 'two.jsonl'}")
    assert factory.ran == ["synthesize"]
    assert str(factory.run("synthesize.feedback=no.jsonl").error).endswith(
        "check synthesize.feedback in the recipe"
    )


def test_preferences_count_by_their_bytes_and_only_for_training(factory):
    factory.run()
    for name in ("one.jsonl", "two.jsonl"):
        (factory.folder / name).write_text("pairs")
    factory.run(f"train.preferences={factory.folder / 'one.jsonl'}")
    assert factory.ran == ["train"]
    factory.run(f"train.preferences={factory.folder / 'two.jsonl'}")
    assert factory.ran == []
    (factory.folder / "two.jsonl").write_text("more pairs")
    factory.run(f"train.preferences={factory.folder / 'two.jsonl'}")
    assert factory.ran == ["train"]
    assert str(factory.run("train.preferences=no.jsonl").error).endswith(
        "check train.preferences in the recipe"
    )


def test_a_missing_teacher_is_named_with_its_key(factory):
    outcome = factory.run("synthesize.teacher.gguf=no.gguf")
    assert isinstance(outcome.error, UsageError)
    assert (
        str(outcome.error) == "The file 'no.gguf' does not exist: check synthesize.teacher.gguf in the recipe"
    )


def test_a_failure_keeps_what_is_finished_and_the_next_run_goes_on(factory):
    factory.fail = "synthesize"
    outcome = factory.run()
    assert statuses(outcome) == ["done", "done", "failed", *["not run"] * 3]
    assert str(outcome.error) == "synthesize cannot"
    assert not (factory.folder / "out" / "examples").exists()
    factory.fail = None
    assert statuses(factory.run()) == ["up to date", "up to date", *["done"] * 4]


def test_a_failure_of_the_second_run_keeps_the_folder_of_the_first(factory):
    factory.run()
    factory.fail = "train"
    assert factory.run("train.rank=8").error
    assert (factory.folder / "out" / "adapter" / "rows.txt").exists()
    factory.fail = None
    assert statuses(factory.run()) == ["up to date"] * 6


def test_one_stage_alone_runs_from_what_is_there(factory):
    outcome = factory.run(only="ingest")
    assert statuses(outcome) == ["done", *["not run"] * 5]
    outcome = factory.run(only="synthesize")
    assert isinstance(outcome.error, ArtifactError)
    assert "chunks holds no record.json: run the stage that makes it first" in str(outcome.error)


def test_a_damaged_record_is_said_and_made_again(factory, caplog):
    factory.run()
    (factory.folder / "out" / "dataset" / "record.json").write_text("{")
    outcome = factory.run()
    assert factory.ran == ["curate"]
    assert outcome.error is None
    assert "dataset/record.json is damaged: running the recipe again makes the folder anew" in caplog.text


def test_a_failed_gate_is_an_error_with_both_numbers_after_all_stages_ran(factory):
    factory.gates = [
        {"name": "kl", "subject": "model-Q4_K_M.gguf", "value": 0.3, "limit": 0.1, "passed": False},
        {"name": "kl", "subject": "model-Q8_0.gguf", "value": 0.01, "limit": 0.1, "passed": True},
    ]
    outcome = factory.run()
    assert statuses(outcome) == ["done"] * 6
    assert isinstance(outcome.error, GateError)
    assert outcome.error.exit_code == 3
    assert "1 quality gate(s) not met: kl of model-Q4_K_M.gguf is 0.3, limit 0.1" in str(outcome.error)
    assert isinstance(factory.run().error, GateError), "an up-to-date run must not hide a failed gate"
    assert isinstance(factory.run(only="verify").error, GateError)
    assert factory.run(only="ingest").error is None, "gates of an earlier run are not about this stage"


def test_what_reads_a_stage_that_is_to_do_is_to_do_itself(factory):
    run = Run(load_recipe(factory.folder / "recipe.yaml"), factory.folder / "out", print)
    assert set(run.states().values()) == {"to do"}
    factory.run()
    assert set(run.states().values()) == {"up to date"}
    changed = Run(load_recipe(factory.folder / "recipe.yaml", ["system=Be brief."]), run.out, print)
    assert [name for name, state in changed.states().items() if state == "to do"] == [
        "synthesize", "curate", "train", "verify",
    ]  # fmt: skip


def test_a_faithful_copy_of_a_faulty_file_ends_in_the_gate_of_the_faulty_one(tmp_path, monkeypatch):
    """Real merge, quantize, verify and export of tiny files, where F16 and so Q8_0 lack the adapter."""
    from types import SimpleNamespace

    from factory.weights import gguf_files
    from tests.tiny import make_tiny_adapter, make_tiny_base, make_tiny_dataset

    base = make_tiny_base(tmp_path / "base")
    adapter, dataset = (
        make_tiny_adapter(base, tmp_path / "adapter", steps=120),
        make_tiny_dataset(tmp_path / "data"),
    )

    def copy_of(source):
        return lambda config, *, work, **given: shutil.copytree(source, work, dirs_exist_ok=True) and {}

    def evaluate(config, *, work, **given):
        store.write_json(work / "scores.json", [])
        return {}

    fakes = {"curate": copy_of(dataset), "train": copy_of(adapter), "evaluate": evaluate}
    steps = [
        replace(step, run=fakes.get(step.stage, step.run), inputs=() if step.stage in fakes else step.inputs)
        for step in pipeline.STEPS[3:]
    ]
    monkeypatch.setattr(pipeline, "STEPS", tuple(steps))
    monkeypatch.setattr(
        gguf_files,
        "write_merged_gguf",
        lambda base, merged, path, name: shutil.copyfile(base / "base-F16.gguf", path),
    )
    (tmp_path / "recipe.yaml").write_text(
        "name: tiny\ningest: {source: .}\nquantize: {types: [Q8_0], imatrix_tokens: 0, threads: 1}\n"
        "verify: {threads: 1, prompts: 4, compared_tokens: 120, scored_tokens: 80, text_lines: 20, answer_tokens: 24}\n"
    )
    run = Run(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "out", print)
    run._base = SimpleNamespace(name="tiny-instruct", sha256="0" * 64, folder=base)
    outcome = run.execute()
    assert statuses(outcome) == [*["done"] * 6, "failed"]
    assert isinstance(outcome.error, GateError)
    assert "top5_difference of model-F16.gguf is " in str(outcome.error)
    assert "kl_divergence" not in str(outcome.error)
    assert "there is no bundle" in str(outcome.error)
    assert not (tmp_path / "out" / "bundle").exists()


def test_two_runs_cannot_write_into_one_folder(factory):
    with (
        store.locked(factory.folder / "out"),
        pytest.raises(UsageError, match=r"Another run is writing into"),
    ):
        factory.run()
    assert factory.run().error is None


@pytest.fixture
def launched(monkeypatch):
    """One of two processes of a launcher, which have met already."""
    from factory.lora import distributed

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "join", lambda device: None)


@pytest.fixture
def sent(launched, monkeypatch):
    """What the main process of several says to the others, in order."""
    from factory.lora import distributed

    said = []
    monkeypatch.setattr(distributed, "from_main", lambda value=None: said.append(value))
    return said


def test_the_main_process_calls_the_others_to_train_and_then_lets_them_go(factory, sent):
    outcome = factory.run()
    assert statuses(outcome) == ["done"] * 6
    (stage, settings, arguments), *rest = sent
    assert (stage, settings) == ("train", load_recipe(factory.folder / "recipe.yaml").train)
    assert arguments.keys() == {"work", "dataset", "seed"}
    assert set(rest) == {None}


@pytest.mark.parametrize("only", [None, "train", "ingest"])
def test_where_nothing_is_to_be_trained_the_others_are_let_go(factory, sent, only):
    factory.run()
    sent.clear()
    assert factory.run(only=only).error is None
    assert set(sent) == {None}


def test_after_a_failure_nothing_is_said_to_others_who_may_be_in_the_middle_of_it(factory, sent):
    factory.fail = "train"
    assert factory.run().error
    assert [call[0] for call in sent] == ["train"]


def test_another_process_takes_part_in_what_it_is_called_for_and_writes_nothing(
    factory, launched, monkeypatch
):
    from factory.lora import distributed

    factory.run()
    recipe = load_recipe(factory.folder / "recipe.yaml")
    given = {"work": factory.folder / "elsewhere", "dataset": factory.folder / "out" / "dataset", "seed": 1}
    given["work"].mkdir()
    calls = iter([("train", recipe.train, given), None])
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "from_main", lambda: next(calls))
    outcome = factory.run(out="other")
    assert factory.ran == ["train"]
    assert outcome.stages == ()
    assert not (factory.folder / "other").exists()


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from factory import pipeline
from factory.recipe import load_recipe
def first(config, *, work, **given):
    (work / "rows.txt").write_text("x")
    return {}
def killed(config, *, work, **given):
    (work / "half.txt").write_text("x")
    os._exit(9)
ingest, chunk = pipeline.STEPS[:2]
pipeline.STEPS = (replace(ingest, run=first, code_version=1), replace(chunk, run=killed, base=False))
folder = Path(sys.argv[1])
pipeline.Run(load_recipe(folder / "recipe.yaml"), folder / "out", print).execute()
"""


def test_a_killed_run_goes_on_after_its_last_finished_stage(factory):
    done = subprocess.run([sys.executable, "-c", KILLED, str(factory.folder)], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    out = factory.folder / "out"
    assert (out / "corpus" / "record.json").is_file()
    assert not (out / "chunks").exists()
    run = Run(load_recipe(factory.folder / "recipe.yaml"), out, print)
    assert run.status(pipeline.STEPS[0]) == "up to date"


def test_records_name_what_was_asked_without_paths(factory):
    factory.run()
    for record in factory.folder.glob("out/*/record.json"):
        assert str(factory.folder) not in json.dumps(json.loads(record.read_text()))
