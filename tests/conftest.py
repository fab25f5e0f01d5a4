"""What all tests share: quiet libraries without a network, searches for garbage that pass over imported packages, and a
core for each process where several run tests.
"""

import gc
import os
import signal
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _stay_on_one_core(worker: str) -> None:
    """Keep this process of `pytest -n`, whose name is like `gw1`, and all that it starts on one core.

    torch and llama.cpp begin a thread for each core that they may use, and their threads wait by turning in a loop: two
    processes with threads for all cores take each other's time.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    else:
        os.environ["OMP_NUM_THREADS"] = "1"


if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    _stay_on_one_core(worker)  # before torch is imported


def pytest_collection_finish() -> None:
    """Keep what collecting imported out of every search for garbage, of which each stage's end asks for one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Let Ctrl-C be heard: a process that a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
