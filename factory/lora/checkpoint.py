"""Training state on disk: adapter, optimizer, random numbers and place in the data. Atomic, checked."""

import logging
import os
import pickle
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory import store

logger = logging.getLogger(__name__)
KEPT = 2


@dataclass
class Progress:
    """Where training stands: finished optimizer steps, epoch, next batch in it, best recall so far.

    `micro_batch` is what memory has turned out to hold, halved `halvings` times; `preflight` what was found before
    the first step; `order` the digest of the rows and batches that it trains on.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_recall: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    recall: list[dict[str, float]] = field(default_factory=list)
    micro_batch: int = 0
    halvings: int = 0
    preflight: dict[str, dict[str, float]] = field(default_factory=dict)
    order: str = ""


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    """Return the trainable tensors by name, on the CPU."""
    return {
        name: value.detach().cpu().clone() for name, value in model.named_parameters() if value.requires_grad
    }


def load_trained(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Put trainable tensors back."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)


def save_file(path: Path, state: dict[str, Any]) -> None:
    """Write tensors to a file that takes the path's place once it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save(folder: Path, model: Any, optimizer: Any, progress: Progress) -> None:
    """Write a checkpoint beside the others and drop the oldest ones; a reader never sees half of one."""
    target = folder / f"step-{progress.step:06d}"
    work = folder / f".{target.name}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    state = {
        "trained": trained_state(model),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],  # dropout's, on a GPU
        "numpy": _numpy_state(),  # the generator that libraries draw from
        "python": random.getstate(),
    }
    torch.save(state, work / "state.pt")
    store.write_json(work / "sha256.json", {"state.pt": store.hash_file(work / "state.pt")})
    store.replace_folder(work, target)
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _numpy_state() -> tuple[Any, ...]:
    """Return the state of numpy's generator in plain numbers, which `weights_only` reads."""
    state: Any = np.random.get_state()
    name, keys, *rest = state
    return (name, keys.tolist(), *rest)


def load_newest(folder: Path, model: Any, optimizer: Any) -> Progress | None:
    """Put the newest whole checkpoint back and return its progress; a damaged one is passed over."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            if store.read_json(path / "sha256.json")["state.pt"] != store.hash_file(path / "state.pt"):
                raise ValueError("its checksum differs")
            # Its checksum lies beside it, so the file may be anyone's: weights_only runs none of a pickle's code.
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).split("\n")[0]
            logger.warning("checkpoint %s is damaged (%s): going back to the one before", path.name, reason)
            continue
        load_trained(model, state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        np.random.set_state(state["numpy"])
        random.setstate(state["python"])
        return Progress(**state["progress"])
    return None
