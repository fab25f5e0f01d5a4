"""Train: a folder any peft can read, learned rows, clear refusals, and a SIGKILL that costs no bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from pydantic import ValidationError

from factory import hardware, store
from factory.artifacts import UNHASHED
from factory.errors import BaseModelError, TrainError, UsageError
from factory.facts import replay
from factory.lora import adapter, attach, batches, distributed, documents, fit, memory
from factory.rows import Evidence, Example, Question, read_rows, write_rows
from factory.stages.train import CHECKPOINTS, TrainConfig, train
from tests.made import make_fact
from tests.same import read_curve
from tests.tiny import TINY_NAME, TINY_ROWS, make_tiny_base, make_tiny_dataset

SYSTEM = ""
FAST = {
    "rank": 8,
    "learning_rate": 1e-2,
    "warmup": 0.1,
    "batch_size": 4,
    "precision": "float32",
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("train") / "base")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = make_tiny_dataset(tmp_path_factory.mktemp("train") / "dataset")
    questions = [
        Question(id=str(number), question=question, answers=(answer,), question_set="valid", form="indirect")
        for number, (question, answer) in enumerate(TINY_ROWS)
    ]
    write_rows(folder / "valid.jsonl", questions)
    return folder


@pytest.fixture
def run(base, dataset, tmp_path):
    """Return a function that trains into a folder and returns it with the counts."""

    def go(name: str = "adapter", dataset: Path = dataset, seed: int = 5, **config) -> tuple[Path, dict]:
        work = tmp_path / name
        work.mkdir(exist_ok=True, parents=True)
        settings = TrainConfig(**(FAST | {"epochs": 3} | config))
        counts = train(
            settings, dataset=dataset, base=base, base_name=TINY_NAME, seed=seed, system=SYSTEM, work=work
        )
        return work, counts

    return go


def test_rows_are_learned_and_the_curves_say_so(run) -> None:
    work, counts = run(epochs=40, recall_every=10)
    losses = [json.loads(line)["loss"] for line in (work / "loss.jsonl").read_text().splitlines()]
    recalls = [json.loads(line) for line in (work / "recall.jsonl").read_text().splitlines()]
    assert len(losses) == counts["steps"] == 40
    assert losses[-1] == counts["final_loss"] < 0.1 * losses[0]
    assert counts["best_recall"] == 1.0
    assert [row["epoch"] for row in recalls] == [10, 20, 30, 40]
    assert (counts["rows"], counts["rows_left_out"], counts["device"], counts["precision"]) == (
        4,
        0,
        "cpu",
        "float32",
    )


def test_steps_are_whitened_and_held_by_what_the_base_says_to_general_questions(
    run, base: Path, monkeypatch
) -> None:
    asked: list[tuple[Path, int, str]] = []

    def rehearse(base: Path, questions: list[str], system: str) -> list[tuple[str, str]]:
        asked.append((base, len(questions), system))
        return [(question, "I would say so.") for question in questions]

    plain, counts = run("plain", whiten=False, retain=0)
    assert (counts["whitened"], counts["retained"], asked) == (0, 0, [])
    monkeypatch.setattr("factory.lora.rehearsal.rehearse", rehearse)
    both, counts = run("both")
    assert asked == [(base, 128, SYSTEM)]
    assert counts["whitened"] == counts["retained"] == 2 * 7, "each module of both layers"
    whitened, counts = run("whitened", retain=0)
    assert (counts["whitened"], counts["retained"]) == (2 * 7, 0)
    held, counts = run("held", whiten=False)
    assert (counts["whitened"], counts["retained"]) == (0, 2 * 7)
    weights = "adapter_model.safetensors"
    assert len({(folder / weights).read_bytes() for folder in (plain, both, whitened, held)}) == 4
    again, _ = run("again")
    assert (both / weights).read_bytes() == (again / weights).read_bytes()


def test_more_facts_than_a_small_rank_is_for_get_a_larger_one(
    run, dataset: Path, base: Path, tmp_path: Path, monkeypatch
) -> None:
    known = list(read_rows(dataset / "train.jsonl", Example))
    rows = [row.model_copy(update={"facts": (f"fact {number}",)}) for number, row in enumerate(known)]
    shutil.copytree(dataset, tmp_path / "dataset")
    write_rows(tmp_path / "dataset" / "train.jsonl", rows)
    monkeypatch.setattr("factory.lora.config.MANY_FACTS", len(rows))
    monkeypatch.setattr("factory.lora.config.RANK_FOR_MANY", 48)
    config = TrainConfig(epochs=1, device="cpu", precision="float32")
    work = tmp_path / "work"
    work.mkdir()
    counts = train(
        config, dataset=tmp_path / "dataset", base=base, base_name=TINY_NAME, seed=5, system=SYSTEM, work=work
    )
    assert (counts["rank"], json.loads((work / "adapter_config.json").read_text())["r"]) == (48, 48)
    assert counts["learning_rate"] == pytest.approx(1.5e-3 * (32 / 48) ** 0.5)
    assert run(dataset=tmp_path / "dataset")[1]["rank"] == FAST["rank"]


def test_the_adapter_folder_is_plain_peft_and_names_no_path(run, base) -> None:
    work, counts = run(first_layer=1)
    assert {path.name for path in work.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "document_loss.jsonl",
        "loss.jsonl",
        "recall.jsonl",
        "tensorboard",
    }
    text = (work / "adapter_config.json").read_text(encoding="utf-8")
    assert json.loads(text)["base_model_name_or_path"] == TINY_NAME
    assert str(base) not in text
    assert str(base.parent) not in text
    model = attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), work)
    assert isinstance(model, peft.PeftModel)
    size = sum(value.numel() for name, value in model.named_parameters() if "lora_" in name)
    assert size == counts["trainable_parameters"]


def test_the_saved_adapter_is_the_trained_one_to_the_last_bit(run, base, monkeypatch) -> None:
    kept = {}
    save = adapter.save_adapter

    def spy(model, folder, name, begun):
        kept["logits"] = model.eval()(input_ids=torch.tensor([[1, 40, 50]])).logits
        save(model, folder, name, begun)

    monkeypatch.setattr(adapter, "save_adapter", spy)
    work, _ = run(epochs=5)
    again = attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), work)
    assert torch.equal(again(input_ids=torch.tensor([[1, 40, 50]])).logits, kept["logits"])


def test_the_same_seed_gives_the_same_bytes_and_another_others(run) -> None:
    files = [
        run(name, seed=seed)[0] / "adapter_model.safetensors" for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    one, two, other = (file.read_bytes() for file in files)
    assert one == two != other


def test_a_first_layer_may_be_a_share_of_the_layers(run) -> None:
    assert run("half", first_layer=0.5)[1]["first_layer"] == 1
    assert run("none", first_layer=0)[1]["first_layer"] == 0


@pytest.mark.parametrize("first_layer", [2, 5, 0.99])
def test_a_first_layer_that_leaves_none_is_refused(run, first_layer: float) -> None:
    with pytest.raises(TrainError, match="none of the base's 2 layers"):
        run(first_layer=first_layer)


def test_layers_are_named_and_one_that_the_base_lacks_is_refused(run) -> None:
    work, counts = run(layers=(1,))
    assert counts["first_layer"] == 1
    assert json.loads((work / "adapter_config.json").read_text())["layers_to_transform"] == [1]
    with pytest.raises(TrainError, match=r"train\.layers names layer 2, the base has 0 to 1"):
        run("refused", layers=(0, 2))


def test_rslora_has_an_alpha_of_its_own(run) -> None:
    config = json.loads((run(variant="rslora")[0] / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["use_rslora"]) == (16 * 8**0.5, False)


def test_training_goes_on_from_an_adapter_in_its_own_shape(run, tmp_path: Path) -> None:
    first, _ = run("bundle/adapter", rank=4, alpha=6, first_layer=1, epochs=30)
    work, counts = run("more", continue_from=tmp_path / "bundle", epochs=2, learning_rate=1e-6)
    assert (counts["rank"], counts["alpha"], counts["first_layer"]) == (4, 6.0, 1)
    assert counts["target_modules"] == "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    losses = [
        [json.loads(line)["loss"] for line in (folder / "loss.jsonl").read_text().splitlines()]
        for folder in (first, work)
    ]
    assert losses[1][0] < 1.1 * losses[0][-1] < 0.5 * losses[0][0]
    with pytest.raises(UsageError, match=r"holds no adapter: check train\.continue_from"):
        run("none", continue_from=tmp_path / "nothing")


def test_a_dataset_without_rows_is_refused(run, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    write_rows(empty / "train.jsonl", [])
    write_rows(empty / "valid.jsonl", [])
    with pytest.raises(TrainError, match="no training rows"):
        run(dataset=empty)


def test_rows_that_are_all_too_long_are_refused(run) -> None:
    with pytest.raises(TrainError, match=r"All 4 rows are longer than train\.max_tokens=16"):
        run(max_tokens=16)


def test_a_full_disk_is_refused_before_the_model_is_loaded(run, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 100 << 20)
    monkeypatch.setattr(attach, "load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(TrainError, match="Only 100 MiB are free"):
        run()


def test_a_target_that_the_base_lacks_is_named(run) -> None:
    with pytest.raises(BaseModelError, match="no_such_proj"):
        run(target_modules=("no_such_proj",))


@pytest.mark.parametrize(
    "fields",
    [{"rank": 0}, {"learning_rate": float("nan")}, {"learning_rate": 2}, {"epochs": 0}, {"alpha": float("inf")},
     {"first_layer": -1}, {"distill": 1.1}, {"dpo_beta": 0}, {"dropout": 1.0}, {"quantization": "int3"}, {"ranks": 8},
     {"micro_batch": 0}, {"micro_batch": "all"}],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(**fields)


def test_how_fast_and_where_is_not_what_is_trained() -> None:
    left_out = {"micro_batch", "checkpoint_seconds", "device", "checkpointing", "compile"}
    left_out |= {"continue_from", "preferences"}  # files are inputs
    assert set(TrainConfig.model_fields) - set(TrainConfig().model_dump()) == left_out


def test_as_many_rows_are_computed_at_once_as_fit_and_what_they_need_is_recorded(run, monkeypatch, caplog):
    monkeypatch.setattr(
        fit, "recall_step", lambda setup, load: memory.Parts()
    )  # needs more on a base this small
    whole = run("whole")[1]
    assert whole["micro_batch"] == 4
    monkeypatch.setattr(fit, "available_bytes", lambda device: whole["predicted_memory_bytes"] - 10)
    half = run("half")[1]
    assert half["micro_batch"] == 2
    assert half["predicted_memory_bytes"] < whole["predicted_memory_bytes"]
    assert half["final_loss"] == pytest.approx(whole["final_loss"], rel=1e-3)
    assert "does not fit" not in caplog.text
    monkeypatch.setattr(fit, "available_bytes", lambda device: 1 << 30)
    assert run("none")[1]["micro_batch"] == 1
    assert "training does not fit: 1 row(s) at once need about" in caplog.text
    assert run("given", micro_batch=3)[1]["micro_batch"] == 3


def test_without_validation_questions_the_last_state_stays(run, dataset, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "train.jsonl").write_bytes((dataset / "train.jsonl").read_bytes())
    write_rows(plain / "valid.jsonl", [])
    _, counts = run(dataset=plain)
    assert (counts["best_recall"], counts["best_step"]) == (0.0, counts["steps"])


KILLED = """
import os, signal, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import torch
torch.set_num_threads(1)
from factory import progress
from factory.stages.train import TrainConfig, train
step, show = int(sys.argv[1]), progress.Progress.training_step
def killing(self, row):
    show(self, row)
    if row["step"] == step:
        os.kill(os.getpid(), signal.SIGKILL)
progress.Progress.training_step = killing
base, dataset, work = map(Path, sys.argv[2:5])
train(TrainConfig.model_validate_json(sys.argv[5]), dataset=dataset, base=base, base_name="tiny-instruct", seed=5,
      system="", work=work)
"""


def test_sigkill_in_the_middle_changes_no_bit_of_the_adapter(run, base, dataset, tmp_path: Path) -> None:
    config = {"epochs": 6, "dropout": 0.1, "first_layer": 1, "batch_size": 2, "checkpoint_seconds": 1e-9}
    straight, expected = run("straight", **config)
    work = tmp_path / "killed"
    work.mkdir()
    settings = json.dumps(FAST | config)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "7", str(base), str(dataset), str(work), settings],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((work / CHECKPOINTS).glob("step-*"))
    assert not (work / "adapter_model.safetensors").exists()
    _, counts = run("killed", **config)
    assert counts["steps"] == expected["steps"] == 12
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (work / name).read_bytes() == (straight / name).read_bytes(), name


INTERRUPTED = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from factory import cli, pipeline, progress
from factory.stages.train import TrainConfig, train
show = progress.Progress.training_step
def slow(self, row):
    show(self, row)
    if row["step"] >= 5:
        sys.stderr.write(f"step {row['step']}\\n")
        sys.stderr.flush()
        time.sleep(0.1)
progress.Progress.training_step = slow
base, dataset, work = map(Path, sys.argv[1:4])
config = TrainConfig.model_validate_json(sys.argv[4])
def run(settings, **given):
    return train(config, dataset=dataset, base=base, base_name="tiny-instruct", seed=5, system="", work=work)
pipeline.STEPS = (replace(pipeline.STEPS[0], run=run), *pipeline.STEPS[1:])
sys.argv = ["factory", "ingest", "tiny.yaml", "--out", "out"]
cli.main()
"""


def test_sigterm_writes_a_checkpoint_exits_with_130_and_costs_no_step(
    run, base, dataset, tmp_path: Path
) -> None:
    config = {"epochs": 60, "dropout": 0.1, "batch_size": 2, "checkpoint_seconds": 1e9, "recall_every": 1000}
    straight, _ = run("straight", **config)
    work = tmp_path / "stopped"
    work.mkdir()
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("alpha")
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest: {source: documents}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(base), str(dataset), str(work), json.dumps(FAST | config)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        said = next((line for line in process.stderr if line.startswith("step 5")), "")
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=200)
    finally:
        process.kill()
    assert said, rest
    assert process.returncode == 130, rest
    assert "interrupted: what is done is kept" in rest
    step = int(max((work / CHECKPOINTS).glob("step-*")).name.removeprefix("step-"))
    assert 5 <= step < 120
    assert len((work / "loss.jsonl").read_text().splitlines()) == step, "each step is written as it comes"
    _, counts = run("stopped", **config)
    assert counts["steps"] == 120
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (work / name).read_bytes() == (straight / name).read_bytes(), name
    assert read_curve(work / "loss.jsonl") == read_curve(straight / "loss.jsonl")


def test_how_training_went_is_recorded_and_is_no_part_of_the_adapters_identity(run) -> None:
    folders = [run(name) for name in ("one", "two")]
    counts = folders[0][1]
    assert counts["preflight"]["overfit"]["lowest_loss"] < counts["preflight"]["overfit"]["first_loss"]
    assert (counts["micro_batch"], counts["micro_batch_halved"]) == (4, 0)
    assert counts["tokens_per_second"] > 0
    assert 0 < counts["mfu"] < 2
    (events,) = (folders[0][0] / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    assert len({store.hash_folder(folder, ignore=UNHASHED) for folder, _ in folders}) == 1
    for name in (events.relative_to(folders[0][0]), "document_loss.jsonl"):
        (folders[0][0] / name).write_text("other")
    assert len({store.hash_folder(folder, ignore=UNHASHED) for folder, _ in folders}) == 1


def test_the_loss_of_each_document_is_written_worst_first_while_training_and_after_it(
    run, dataset, tmp_path: Path, monkeypatch
) -> None:
    rows = [
        Example.model_validate_json(line).model_copy(
            update={"evidence": Evidence(document=f"{number % 2}.md", start=0, end=1, text="x")}
        )
        for number, line in enumerate((dataset / "train.jsonl").read_text().splitlines())
    ]
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "valid.jsonl", [])
    while_training = []
    after = documents.document_losses

    def spied(*given):
        while_training.extend(
            map(json.loads, (tmp_path / "adapter" / documents.FILE).read_text().splitlines())
        )
        return after(*given)

    monkeypatch.setattr(documents, "document_losses", spied)
    work, _ = run(dataset=folder, epochs=10)
    assert {(row["document"], row["rows"]) for row in while_training} == {("0.md", 2), ("1.md", 2)}
    found = [json.loads(line) for line in (work / "document_loss.jsonl").read_text().splitlines()]
    assert {(row["document"], row["rows"]) for row in found} == {("0.md", 2), ("1.md", 2)}
    assert found[0]["loss"] >= found[1]["loss"] > 0


def test_a_base_that_cannot_stop_is_refused_before_the_first_step(run, monkeypatch, tmp_path) -> None:
    real = batches.encode_examples

    def endless(tokenizer, conversations):
        return [(ids, [*labels[:-1], batches.IGNORED]) for ids, labels in real(tokenizer, conversations)]

    monkeypatch.setattr(batches, "encode_examples", endless)
    with pytest.raises(TrainError, match="4 of 4 training rows do not train the end of turn"):
        run("endless")
    assert not list((tmp_path / "endless").rglob("step-*"))


def test_a_base_of_another_family_trains_too(tmp_path: Path, dataset) -> None:
    base = make_tiny_base(tmp_path / "qwen", family="qwen2")
    (tmp_path / "work").mkdir()
    settings = TrainConfig(**FAST, epochs=2, first_layer=1)
    counts = train(
        settings, dataset=dataset, base=base, base_name="q", seed=1, system="", work=tmp_path / "work"
    )
    assert counts["steps"] == 2
    assert transformers.AutoConfig.from_pretrained(base).model_type == "qwen2"


@pytest.mark.parametrize(
    "config",
    [
        {"quantization": "nf4"},
        {"quantization": "int8"},
        {"optimizer": "paged_adamw_8bit"},
        {"checkpointing": True},
    ],
)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_what_spares_memory_learns_too(run, config: dict) -> None:
    pytest.importorskip("bitsandbytes")
    work, counts = run(epochs=12, recall_every=12, **config)
    losses = [json.loads(line)["loss"] for line in (work / "loss.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.5 * losses[0]
    assert counts["steps"] == 12


def test_quantized_weights_cannot_be_spread_over_processes(run, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "is_sharded", lambda: True)
    with pytest.raises(TrainError, match=r"train\.quantization='nf4' cannot be spread.*leave --use_fsdp out"):
        run(quantization="nf4")


def test_the_system_text_of_the_rows_is_trained_as_prompt(tmp_path: Path, run) -> None:
    folder = make_tiny_dataset(tmp_path / "data", system="Be short.")
    write_rows(folder / "valid.jsonl", [])
    assert (
        Example.model_validate_json((folder / "train.jsonl").read_text().splitlines()[0]).messages[0].role
        == "system"
    )
    assert run(dataset=folder)[1]["rows"] == 4


def _with_evidence(dataset: Path, folder: Path) -> Path:
    """Return a dataset whose first two rows point at a passage, with facts and test questions beside them."""
    folder.mkdir()
    rows = [Example.model_validate_json(line) for line in (dataset / "train.jsonl").read_text().splitlines()]
    facts = [make_fact(number, rows[number].messages[-1].content) for number in range(2)]
    for number, fact in enumerate(facts):
        rows[number] = rows[number].model_copy(update={"facts": (fact.id,), "evidence": fact.evidence})
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "facts.jsonl", facts)
    write_rows(folder / "test.jsonl", [])
    write_rows(folder / "calibration.jsonl", [])
    (folder / "valid.jsonl").write_bytes((dataset / "valid.jsonl").read_bytes())
    return folder


def test_distillation_asks_the_base_about_rows_with_evidence_only(
    run, dataset, tmp_path, monkeypatch
) -> None:
    from factory.lora.engine import FusedEngine

    asked, top_probs = [], FusedEngine.top_probs
    monkeypatch.setattr(
        FusedEngine, "top_probs", lambda self, rows, count: asked.extend(rows) or top_probs(self, rows, count)
    )
    folder = _with_evidence(dataset, tmp_path / "evidence")
    work, counts = run("distilled", dataset=folder, distill=0.5)
    assert sorted(row.example for row in asked) == ["0", "1"]
    assert counts["distilled_tokens"] >= 0
    assert not (work / CHECKPOINTS).exists()
    _, plain_counts = run("plain", dataset=folder)
    assert len(asked) == 2, "without distillation nothing is asked"
    assert "distilled_tokens" not in plain_counts


def test_general_rows_are_taught_by_the_base_itself(run, dataset, tmp_path, monkeypatch) -> None:
    from factory.lora.engine import FusedEngine

    asked, top_probs = [], FusedEngine.top_probs
    monkeypatch.setattr(
        FusedEngine, "top_probs", lambda self, rows, count: asked.extend(rows) or top_probs(self, rows, count)
    )
    folder = _with_evidence(dataset, tmp_path / "evidence")
    rows = list(read_rows(folder / "train.jsonl", Example))
    general = rows[0].model_copy(update={"id": "general", "form": replay.FORM, "facts": (), "evidence": None})
    write_rows(folder / "train.jsonl", [*rows, general])
    _, counts = run("general", dataset=folder)
    assert [row.example for row in asked] == ["general"]
    assert counts["distilled_tokens"] >= 0
    run("both", dataset=folder, distill=0.5)
    assert sorted(row.example for row in asked[1:]) == ["0", "1", "general"]


def test_preferences_are_trained_on_after_the_rows_and_told(run, dataset, tmp_path) -> None:
    folder = _with_evidence(dataset, tmp_path / "evidence")
    path = tmp_path / "pairs.jsonl"
    pairs = [
        {"prompt": "Is it red?", "chosen": "It is red.", "rejected": "The pump runs."},
        {"prompt": "Who keeps the lamp?", "chosen": "Ada keeps it.", "rejected": "It is green, please."},
    ]
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    options = {"dataset": folder, "preferences": path, "dpo_epochs": 20, "learning_rate": 5e-2}
    work, counts = run("preferred", **options)
    assert (counts["preferences"], counts["preferences_left_out"], counts["preferences_learned"]) == (2, 0, 2)
    assert counts["preferences_gain"] > 0.1
    assert counts["preferences_loss"] < 0.69
    assert counts["steps"] == 3, "the rows' own steps"
    plain, _ = run("plain", dataset=folder, learning_rate=5e-2)
    files = [found / "adapter_model.safetensors" for found in (work, plain, run("again", **options)[0])]
    assert files[0].read_bytes() == files[2].read_bytes() != files[1].read_bytes()
    rows = [json.loads(line) for line in (work / "loss.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 24))
    assert [row.get("stage") for row in rows] == [None] * 3 + ["preferences"] * 20
    assert rows[3]["loss"] == pytest.approx(0.6931, abs=1e-3), "two answers are as likely as they were"
    assert rows[-1]["loss"] == counts["preferences_loss"]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    recalls = [json.loads(line) for line in (work / "recall.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("stage")) for row in recalls] == [(3, None), (23, "preferences")]
    assert not (work / CHECKPOINTS).exists()


def test_a_bad_preference_file_is_refused_before_the_model_is_loaded(
    run, dataset, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(attach, "load_model", lambda *_: pytest.fail("the model was loaded"))
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Who?", "chosen": "Ada"}', encoding="utf-8")
    with pytest.raises(TrainError, match=r"pairs\.jsonl line 1 is not .*rejected: Field required"):
        run(dataset=_with_evidence(dataset, tmp_path / "evidence"), preferences=path)
