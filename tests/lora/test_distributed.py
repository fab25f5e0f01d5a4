"""Two processes give the losses and the adapter of one, with whole and with spread weights; alone nothing is asked."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from factory import artifacts
from factory.lora import distributed
from factory.pipeline import Run
from factory.recipe import load_recipe
from factory.rows import Question, write_rows
from tests.tiny import TINY_ROWS, make_tiny_dataset

ROOT = Path(__file__).parents[2]
# Batches of three and one: the second process runs out of rows.
RECIPE = """
name: tiny
ingest: {source: .}
train: {rank: 4, first_layer: 1, learning_rate: 0.01, epochs: 4, batch_size: 3, micro_batch: 1, recall_every: 1,
        precision: float32, device: cpu, checkpoint_seconds: 1e-9}
"""
LAUNCHED = """
import os, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
from types import SimpleNamespace
from factory.pipeline import Run
from factory.recipe import load_recipe
recipe, base, out = map(Path, sys.argv[1:4])
run = Run(load_recipe(recipe), out, lambda line: None)
run._base = SimpleNamespace(name="tiny-instruct", folder=base, sha256="0" * 64)
outcome = run.execute("train")
if outcome.error:
    raise outcome.error
os.write(1, f"{len(outcome.stages)};".encode())  # at once: both write into one pipe
"""


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


def _launch(folder: Path, base: Path, out: Path, **variables: str) -> None:
    script = folder / "launched.py"
    script.write_text(LAUNCHED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(script), str(folder / "recipe.yaml"), str(base), str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert sorted(done.stdout.split(";")) == ["", "0", "10"], "one process leads, one helps"


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory) -> dict[str, Path]:
    """The adapter folders of one process, of two, and of two with spread weights."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "recipe.yaml").write_text(RECIPE)
    made = {name: folder / name for name in ("one", "two", "spread")}
    for out in made.values():
        _make_dataset(out)
    alone = Run(load_recipe(folder / "recipe.yaml"), made["one"], lambda line: None)
    alone._base = SimpleNamespace(name="tiny-instruct", folder=base, sha256="0" * 64)
    assert alone.execute("train").error is None
    _launch(folder, base, made["two"])
    _launch(folder, base, made["spread"], ACCELERATE_USE_FSDP="true")
    return {name: out / "adapter" for name, out in made.items()}


def _curve(folder: Path, name: str, key: str) -> list[float]:
    return [json.loads(line)[key] for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "spread"])
def test_two_processes_train_what_one_does(runs, name: str) -> None:
    losses = _curve(runs["one"], "loss.jsonl", "loss")
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    assert _curve(runs[name], "loss.jsonl", "loss") == pytest.approx(
        losses, abs=1.1e-5
    )  # written with 5 digits
    assert _curve(runs[name], "recall.jsonl", "recall") == _curve(runs["one"], "recall.jsonl", "recall")
    weights, expected = (load_file(runs[who] / "adapter_model.safetensors") for who in (name, "one"))
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        assert (weights[key] - value).abs().max() < 1e-4, key
        assert value.abs().max() > 1e-3, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "spread"])
def test_the_folder_of_two_processes_is_that_of_one(runs, name: str) -> None:
    files = [{path.name for path in runs[who].iterdir()} for who in (name, "one")]
    assert files[0] == files[1]
    configs = [(runs[who] / "adapter_config.json").read_bytes() for who in (name, "one")]
    assert configs[0] == configs[1]


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
