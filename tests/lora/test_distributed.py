"""The launchers' own commands start two processes, which train what one does; a process alone asks nobody."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from factory import artifacts
from factory.errors import TrainError
from factory.facts import replay
from factory.lora import distributed, rehearsal
from factory.rows import Question, write_rows
from factory.stages.train import GENERAL_QUESTIONS
from factory.weights.base import open_base
from tests.tiny import TINY_ROWS, make_tiny_dataset

ROOT = Path(__file__).parents[2]
# Batches of three and one: the second process runs out of rows.
RECIPE = """
name: tiny
base: tiny.gguf
ingest: {source: .}
train: {rank: 4, first_layer: 1, learning_rate: 0.01, epochs: 4, batch_size: 3, micro_batch: 1, recall_every: 1,
        precision: float32, checkpoint_seconds: 1e-9}
"""
# The launchers' command lines of docs/performance.md, all but the stage and the recipe.
LAUNCHERS = {
    "accelerate": "accelerate launch --multi_gpu --num_processes 2 -m factory.cli",
    "spread": "accelerate launch --use_fsdp --fsdp_version 2 --num_processes 2 -m factory.cli",
    "torchrun": "torchrun --nproc_per_node 2 -m factory.cli",
}


def _make_dataset(out: Path) -> None:
    def make(work: Path) -> dict[str, int]:
        make_tiny_dataset(work)
        questions = [
            Question(id=str(i), question=question, answers=(answer,), question_set="valid", form="indirect")
            for i, (question, answer) in enumerate(TINY_ROWS)
        ]
        write_rows(work / "valid.jsonl", questions)
        return {}

    artifacts.build(out / "dataset", kind="dataset", code_version=0, config={}, inputs={}, make=make)


def _train(folder: Path, command: str, out: Path) -> str:
    """Type a launcher's command and return what it says."""
    done = subprocess.run(
        [*command.split(), "train", "recipe.yaml", "--out", str(out), "--set", "train.device=cpu"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ
        | {
            "ADAPTER_FACTORY_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory) -> dict[str, Path]:
    """The adapter folders of one process, and of two by each launcher."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "recipe.yaml").write_text(RECIPE)
    shutil.copyfile(base / "base-F16.gguf", folder / "tiny.gguf")
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # what so small a base says is no sentence, and would whiten nothing
        patch.setenv("ADAPTER_FACTORY_CACHE", str(folder / "cache"))
        patch.setattr(
            rehearsal, "_answer", lambda base, blocks, *given: [["It is."] * len(block) for block in blocks]
        )
        rehearsal.rehearse(
            open_base(str(folder / "tiny.gguf")).folder, replay.questions()[:GENERAL_QUESTIONS], ""
        )
    for name, command in {"alone": f"{sys.executable} -m factory.cli", **LAUNCHERS}.items():
        _make_dataset(folder / name)
        said = _train(folder, command, folder / name)
        assert said.count("steps 8") == 1, "one process leads and says so"
    return {name: folder / name / "adapter" for name in ("alone", *LAUNCHERS)}


def _curve(folder: Path, name: str, key: str) -> list[float]:
    return [json.loads(line)[key] for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_processes_train_what_one_does(runs, name: str) -> None:
    losses = _curve(runs["alone"], "loss.jsonl", "loss")
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    assert _curve(runs[name], "loss.jsonl", "loss") == pytest.approx(
        losses, abs=1.1e-5
    )  # written with 5 digits
    assert _curve(runs[name], "recall.jsonl", "recall") == _curve(runs["alone"], "recall.jsonl", "recall")
    weights, expected = (load_file(runs[who] / "adapter_model.safetensors") for who in (name, "alone"))
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        assert (weights[key] - value).abs().max() < 1e-4, key
        assert value.abs().max() > 1e-3, key


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_folder_of_two_processes_is_that_of_one(runs, name: str) -> None:
    files = [{path.name for path in runs[who].iterdir()} for who in (name, "alone")]
    assert files[0] == files[1]
    counts = [artifacts.read_record(runs[who]).counts for who in (name, "alone")]
    assert [told["whitened"] for told in counts] == [told["retained"] for told in counts] == [7, 7]
    configs = [(runs[who] / "adapter_config.json").read_bytes() for who in (name, "alone")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_docs_name_the_commands_that_are_tested(name: str) -> None:
    assert (
        f"{LAUNCHERS[name]} run RECIPE --set train.device=cpu\n" in (ROOT / "docs/performance.md").read_text()
    )


def test_a_process_alone_asks_nobody(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert (distributed.num_processes(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert not distributed.is_sharded()
    assert distributed.from_main("value") == "value"
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.full((2,), 3.0)
    assert distributed.sum_gradients([parameter], torch.tensor(1.5)) == 1.5
    assert parameter.grad.tolist() == [3.0, 3.0]
    distributed.leave()


def test_where_a_check_fails_in_another_process_it_fails_here(monkeypatch) -> None:
    assert distributed.in_all(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        distributed.in_all(lambda: 1 // 0)
    monkeypatch.setattr(distributed, "any_of", lambda flag: True)
    with pytest.raises(TrainError, match="failed in another process"):
        distributed.in_all(lambda: 3)
    monkeypatch.setattr(distributed, "any_of", lambda flag: pytest.fail("the others may wait inside a layer"))
    monkeypatch.setattr(distributed, "is_sharded", lambda: True)
    with pytest.raises(ZeroDivisionError):
        distributed.in_all(lambda: 1 // 0)
