"""Two processes that train together: DPO, distillation, a kill and a lack of memory give the losses of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from factory.lora import attach
from factory.rows import Example, Question, write_rows
from factory.stages.train import CHECKPOINTS, TrainConfig, train
from tests.made import make_fact
from tests.tiny import ALL_LINEAR, TINY_NAME, TINY_ROWS, make_tiny_adapter, make_tiny_base, make_tiny_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FAST = {
    "rank": 4, "epochs": 6, "learning_rate": 5e-3, "batch_size": 3, "precision": "float32", "device": "cpu",
    "checkpoint_seconds": 1e-9, "recall_every": 2, "whiten": False, "retain": 0.0,
}  # fmt: skip
CASES = {
    "plain": {},
    "frozen": {"first_layer": 1},
    "whitened": {"whiten": True, "learning_rate": 1e-3},
    "retained": {"retain": 10.0},
    "distilled": {"distill": 0.5},
    "preferred": {"preferences": "pairs.jsonl", "dpo_epochs": 6, "learning_rate": 2e-2, "epochs": 2},
}
# Of each tensor's norm. AdamW moves an element whose gradient is all rounding by as much as any other; where steps are
# whitened, gradients are sums over a row of A, one of them was such a sum, and its step is spread over the row.
APART = {"whitened": 1e-3}
PAIRS = [
    {"prompt": "Is it red?", "chosen": "It is red.", "rejected": "The pump runs."},
    {"prompt": "Who keeps the lamp?", "chosen": "Ada keeps it.", "rejected": "It is green, please."},
    {"prompt": "Where is the gate?", "chosen": "In the north.", "rejected": "Ask again later."},
]
# What goes wrong in the second process alone. The largest batch is tried as call 1, the first step is call 2.
DRIVER = """
import json, os, signal, sys, warnings
warnings.filterwarnings("ignore")
from pathlib import Path
import torch
from factory.errors import TrainError
from factory.lora import distributed, loop, preflight
from factory.stages.train import TrainConfig, train

folder, name, base_name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
accumulate, check_labels = loop.accumulate, preflight.check_labels
distributed.join("cpu")

def plant(fault, at):
    calls = 0
    def faulty(*arguments):
        nonlocal calls
        calls += 1
        loss = accumulate(*arguments)
        if calls == at and fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if calls == at and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return loss
    def refuse(rows, end_id):
        raise TrainError("planted")
    loop.accumulate, preflight.check_labels = accumulate, check_labels
    if distributed.rank() == 1 and fault == "check":
        preflight.check_labels = refuse
    elif distributed.rank() == 1:
        loop.accumulate = faulty

for place, fault, at, config in json.loads(sys.argv[4]):
    plant(fault, at)
    work = folder / name / place
    work.mkdir(parents=True, exist_ok=True)
    try:
        told = train(
            TrainConfig(**config), dataset=folder / "dataset", base=folder / "base", base_name=base_name, seed=5,
            system="", work=work,
        )
    except TrainError as error:
        told = {"error": str(error)}
    (work / f"told-{distributed.rank()}.json").write_text(json.dumps(told))
distributed.leave()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base that knows its rows half, these rows with evidence, and pairs of answers."""
    folder = tmp_path_factory.mktemp("together")
    base = make_tiny_base(folder / "base")
    adapter = make_tiny_adapter(base, folder / "adapter", steps=12)
    model = attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), adapter)
    taught = model.merge_and_unload().state_dict()
    kept = load_file(base / "model.safetensors")
    tensors = {name: taught[name].to(value.dtype).contiguous() for name, value in kept.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    dataset = make_tiny_dataset(folder / "dataset")
    facts = [make_fact(number, answer) for number, (_, answer) in enumerate(TINY_ROWS)]
    lines = (dataset / "train.jsonl").read_text().splitlines()
    rows = [
        Example.model_validate_json(line).model_copy(update={"facts": (fact.id,), "evidence": fact.evidence})
        for line, fact in zip(lines, facts, strict=True)
    ]
    asked = [
        Question(id=str(i), question=question, answers=(answer,), question_set="valid", form="indirect")
        for i, (question, answer) in enumerate(TINY_ROWS)
    ]
    for name, values in {
        "train": rows,
        "facts": facts,
        "valid": asked,
        "test": [],
        "calibration": [],
    }.items():
        write_rows(dataset / f"{name}.jsonl", values)
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, dict]:
    """What one process tells of each case."""
    threads, told = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for name in CASES:
        work = folder / "alone" / name
        work.mkdir(parents=True)
        told[name] = train(
            TrainConfig(**_config(folder, name)), dataset=folder / "dataset", base=folder / "base",
            base_name=TINY_NAME, seed=5, system="", work=work,
        )  # fmt: skip
    torch.set_num_threads(threads)
    return told


def _config(folder: Path, name: str) -> dict:
    config = FAST | CASES[name]
    return config | {"preferences": str(folder / "pairs.jsonl")} if name == "preferred" else config


def _together(folder: Path, name: str, *runs: tuple, **variables: str) -> subprocess.CompletedProcess[str]:
    """Train in two processes: a run is a place, a fault of the second process, its call and a case."""
    script = folder / "driver.py"
    script.write_text(DRIVER)
    cases = [(place, fault, at, _config(folder, case)) for place, fault, at, case in runs]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
    ]
    return subprocess.run(
        [*command, str(folder), name, TINY_NAME, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables,
    )


@pytest.fixture(scope="module")
def two(folder) -> Path:
    """What two processes made, one of them having been killed, then without memory, then in doubt."""
    killed = _together(folder, "two", ("killed", "killed", 6, "plain"))
    assert killed.returncode != 0
    steps = sorted(path.name for path in (folder / "two" / "killed" / CHECKPOINTS).glob("step-*"))
    assert steps[-1] == "step-000004", killed.stderr[-4000:]
    done = _together(
        folder,
        "two",
        ("killed", "", 0, "plain"),
        ("memory", "memory", 2, "plain"),
        ("memory at first", "memory", 1, "frozen"),
        ("check", "check", 0, "plain"),
        *((name, "", 0, name) for name in CASES),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "two"


@pytest.fixture(scope="module")
def spread(folder) -> Path:
    """What two processes made that spread weights and offload their shares; in the end one is without memory."""
    done = _together(
        folder,
        "spread",
        *((name, "", 0, name) for name in CASES),
        ("memory", "memory", 2, "plain"),
        ACCELERATE_USE_FSDP="true",
        FSDP_OFFLOAD_PARAMS="true",
    )
    assert done.returncode != 0
    return folder / "spread"


def _told(work: Path, rank: int = 0) -> dict:
    return json.loads((work / f"told-{rank}.json").read_text())


def _curve(work: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (work / "loss.jsonl").read_text().splitlines()]


def _assert_same(work: Path, expected: Path) -> None:
    losses = _curve(expected)
    assert len(losses) >= 10
    assert _curve(work) == pytest.approx(losses, abs=1.1e-5)  # written with 5 digits
    weights, others = (load_file(path / "adapter_model.safetensors") for path in (work, expected))
    assert len(weights) == 2 * 2 * len(ALL_LINEAR) if expected.name != "frozen" else 2 * len(ALL_LINEAR)
    for name, value in others.items():
        assert (weights[name] - value).norm() < APART.get(expected.name, 1e-4) * value.norm(), name


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_losses_of_one(two, folder, alone, case: str) -> None:
    _assert_same(two / case, folder / "alone" / case)
    told = _told(two / case)
    for key in ("best_recall", "distilled_tokens", "preferences_gain", "preferences_learned"):
        assert told.get(key) == pytest.approx(alone[case].get(key), abs=1e-3), key
    assert (
        told["preflight"].keys() == alone[case]["preflight"].keys() >= {"overfit", "resume", "largest batch"}
    )
    assert told["preflight"]["overfit"] == _told(two / case, rank=1)["preflight"]["overfit"]


@pytest.mark.parametrize("case", CASES)
def test_spread_weights_have_them_too(spread, folder, alone, case: str) -> None:
    _assert_same(spread / case, folder / "alone" / case)
    assert _told(spread / case)["preflight"].keys() == alone[case]["preflight"].keys()


def test_the_teacher_speaks_and_pairs_are_learned(alone) -> None:
    assert alone["distilled"]["distilled_tokens"] > 5
    assert alone["preferred"]["preferences_learned"] == len(PAIRS)


def test_killed_processes_go_on_from_the_checkpoint(two, folder, alone) -> None:
    _assert_same(two / "killed", folder / "alone" / "plain")


@pytest.mark.parametrize(("place", "case"), [("memory", "plain"), ("memory at first", "frozen")])
def test_where_one_process_lacks_memory_all_take_half_as_many_rows(
    two, folder, alone, place: str, case: str
) -> None:
    _assert_same(two / place, folder / "alone" / case)
    for rank in range(2):
        told = _told(two / place, rank)
        assert (told["micro_batch"], told["micro_batch_halved"]) == (1, 1)


def test_a_check_that_fails_in_one_process_ends_all(two) -> None:
    assert _told(two / "check", rank=1) == {"error": "planted"}
    assert "failed in another process" in _told(two / "check", rank=0)["error"]
    assert not (two / "check" / "loss.jsonl").exists()


def test_where_weights_are_spread_a_lack_of_memory_says_what_to_set(spread) -> None:
    assert "set train.micro_batch below 2" in _told(spread / "memory", rank=1)["error"]
    assert not (spread / "memory" / "told-0.json").exists()
