"""Tell whether two runs gave the same: bytes up to the dataset, weights within a thousandth from the adapter on."""

import filecmp
import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

from factory import pipeline

TEXTS = ("corpus", "chunks", "examples", "dataset")
FOLDERS = tuple(step.folder for step in pipeline.STEPS)
TIMED = ("record.json", "loss.jsonl", "quantize.json")  # they say how long things took
MAX_DIFFERENCE = 1e-3  # of two tensors, as a share of their norm


def assert_same_run(run: Path, reference: Path) -> None:
    """Compare all that two finished runs wrote, down to the names of files: nothing temporary may be left."""
    _assert_same_tree(run, reference)
    for folder in FOLDERS:
        assert_same_stage(run / folder, reference / folder)


def assert_same_stage(made: Path, expected: Path) -> None:
    """Compare one stage's folder with another run's."""
    _assert_same_tree(made, expected)
    for path in sorted(path.relative_to(expected) for path in expected.rglob("*") if path.is_file()):
        if filecmp.cmp(made / path, expected / path, shallow=False):
            continue
        if path.suffix in READ:
            _assert_close(READ[path.suffix](made / path), READ[path.suffix](expected / path), path)
        elif path.name == "adapter_config.json":
            assert read_config(made / path) == read_config(expected / path), f"{path} differs"
        elif path.name == "loss.jsonl":
            assert read_curve(made / path) == read_curve(expected / path), f"{path} differs"
        elif expected.name in TEXTS and path.name not in TIMED:
            raise AssertionError(f"{path} differs")


def list_tree(folder: Path) -> list[str]:
    """Return the paths of all files and folders below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def read_config(path: Path) -> dict:
    """Return an adapter's configuration; its target modules are a set, which peft writes in any order."""
    config = json.loads(path.read_text(encoding="utf-8"))
    return config | {"target_modules": sorted(config["target_modules"])}


def read_curve(path: Path) -> list[tuple[int, int, float]]:
    """Return step, epoch and loss of each row of a loss curve."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(row["step"], row["epoch"], round(row["loss"], 3)) for row in rows]


def read_gguf(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a GGUF file as numbers."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(path).tensors
    }


READ = {".gguf": read_gguf, ".safetensors": load_file}


def _assert_same_tree(made: Path, expected: Path) -> None:
    odd = set(list_tree(made)) ^ set(list_tree(expected))
    assert not odd, f"{sorted(odd)} exist in one of {made.name} and {expected.name} only"


def _assert_close(made: dict[str, np.ndarray], expected: dict[str, np.ndarray], path: Path) -> None:
    assert made.keys() == expected.keys(), f"{path} holds other tensors"
    assert made, f"{path} holds no tensor"
    for name, wanted in expected.items():
        given, wanted = made[name].astype(np.float64), wanted.astype(np.float64)
        difference = np.linalg.norm(given - wanted) / max(np.linalg.norm(wanted), 1e-12)
        assert difference <= MAX_DIFFERENCE, f"{path}: {name} differs by {difference:.2g} of its norm"
