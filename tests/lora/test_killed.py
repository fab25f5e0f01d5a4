"""A run that the system killed for want of memory is told from every other end of one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory.lora import killed


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Return a function that sets the system's count of such kills, which is 3 at first."""
    path = tmp_path / "vmstat"

    def write(number: int) -> None:
        path.write_text(f"nr_free_pages 17\noom_kill {number}\noom_kill_other 99\n")

    monkeypatch.setattr(killed, "COUNTERS", path)
    write(3)
    return write


def test_only_a_mark_and_a_kill_together_say_so(tmp_path: Path, count) -> None:
    assert killed.killed_with(tmp_path) == 0
    killed.mark(tmp_path / "new", 8)
    assert killed.killed_with(tmp_path / "new") == 0, "the power went, or somebody killed it"
    count(4)
    assert killed.killed_with(tmp_path / "new") == 8
    killed.mark(tmp_path / "new", 4)
    assert killed.killed_with(tmp_path / "new") == 0, "that kill was before this run"
    count(5)
    killed.unmark(tmp_path / "new")
    assert killed.killed_with(tmp_path / "new") == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"micro_batch": "x", "kills": 0}', '{"kills": 0}'])
def test_a_damaged_mark_is_none(tmp_path: Path, count, text: str) -> None:
    (tmp_path / killed.MARK).write_text(text)
    assert killed.killed_with(tmp_path) == 0


def test_a_system_that_does_not_count_has_no_kills(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(killed, "COUNTERS", tmp_path / "none")
    assert killed.num_kills() == 0
    assert type(killed.num_kills()) is int


def test_a_killed_process_leaves_its_mark(tmp_path: Path, count) -> None:
    code = f"""
import os, signal
from pathlib import Path
from factory.lora import killed
killed.COUNTERS = Path({str(killed.COUNTERS)!r})
killed.mark(Path({str(tmp_path)!r}), 6)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    count(4)
    assert killed.killed_with(tmp_path) == 6
