"""Threads make way for other programs, and come back."""

import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factory import hardware
from factory.lora import threads
from factory.lora.threads import Threads, num_threads


@pytest.fixture
def machine(monkeypatch):
    """Four cores and a clock; the test says how busy others are."""
    before, told = torch.get_num_threads(), {"others": 0.0, "now": 0.0}
    torch.set_num_threads(4)
    monkeypatch.setattr(hardware, "num_cores", lambda: 4)
    monkeypatch.setattr(hardware.OthersWork, "cores", lambda _: told["others"])
    monkeypatch.setattr(threads.time, "monotonic", lambda: told["now"])
    yield told
    torch.set_num_threads(before)


def look(machine, way, others):
    machine["others"] = others
    machine["now"] += threads.LOOK_SECONDS
    way.make_way()
    return torch.get_num_threads()


def test_threads_follow_what_others_leave(machine):
    busy = {0.0: 4, 0.3: 4, 1.0: 3, 2.0: 2, 3.5: 2}
    with Threads(True) as way:
        for others, expected in [*busy.items(), *reversed(busy.items())]:
            assert look(machine, way, others) == expected


def test_all_threads_are_back_at_the_end_whatever_happened(machine):
    def train():
        with Threads(True) as way:
            assert look(machine, way, 2.0) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert torch.get_num_threads() == 4


def test_between_two_looks_nothing_changes(machine):
    with Threads(True) as way:
        machine["others"], machine["now"] = 2.0, threads.FIRST_SECONDS / 2  # too short to tell
        way.make_way()
        assert torch.get_num_threads() == 4
        machine["now"] = threads.FIRST_SECONDS
        way.make_way()
        assert torch.get_num_threads() == 2
        machine["others"], machine["now"] = 0.0, threads.FIRST_SECONDS + threads.LOOK_SECONDS / 2
        way.make_way()
        assert torch.get_num_threads() == 2


def test_nothing_is_watched_where_threads_are_not_to_change(machine, monkeypatch):
    monkeypatch.setattr(hardware, "OthersWork", lambda: pytest.fail("watched"))
    with Threads(False) as way:
        assert look(machine, way, 2.0) == 4
    torch.set_num_threads(1)
    with Threads(True) as way:
        assert look(machine, way, 2.0) == 1


def test_the_log_says_once_why_training_is_slower(machine, caplog):
    caplog.set_level("INFO")
    with Threads(True) as way:
        for others in (1.2, 0.0, 1.2):
            look(machine, way, others)
    assert [record.getMessage() for record in caplog.records] == [
        "other programs keep 1.2 of 4 cores busy: training goes on with 3 of 4 threads, which is faster, until they "
        "are done"
    ]


@given(st.integers(1, 128), st.integers(1, 256), st.floats(0, 300))
def test_at_least_half_of_the_threads_and_no_more_than_there_were(most, cores, others):
    chosen = num_threads(most, cores, others)
    assert most / 2 <= chosen <= most
    assert chosen <= max(cores - others + 0.5, (most + 1) / 2)


@pytest.mark.alone  # what runs beside it is what it measures
def test_the_work_of_others_is_seen_and_ones_own_is_not():
    def spin(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    others = hardware.OthersWork()
    spin(1.5)
    own = others.cores()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        others.cores()
        spin(1.5)
        assert others.cores() > own + 0.4  # on one core the two share it
    finally:
        busy.kill()
        busy.wait()
