"""What all tests share: offline libraries, quiet ones, and searches for garbage that pass over imported packages."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


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
