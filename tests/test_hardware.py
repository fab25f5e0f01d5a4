"""What the machine has, and the memory watch."""

import multiprocessing
import os
import subprocess
import sys
import time

import psutil
import pytest

from factory import hardware

MIB = 1 << 20


def test_the_machine_is_described_in_one_line_that_does_not_name_it():
    line = hardware.describe_machine()
    assert f"{hardware.num_cores()} cores" in line
    assert os.uname().nodename not in line
    assert "\n" not in line


def test_cores_are_those_this_process_may_use():
    pinned = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from factory import hardware; "
    )
    done = subprocess.run(
        [sys.executable, "-c", pinned + "print(hardware.num_cores())"], capture_output=True, text=True
    )
    assert done.stdout == "1\n"


def test_memory_available_is_a_part_of_all_memory():
    assert 0 < hardware.available_memory_bytes() <= hardware.total_memory_bytes()


def test_free_disk_is_that_of_the_nearest_folder_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = hardware.free_disk_bytes(tmp_path)
    assert here > 0
    for path in (tmp_path / "not" / "yet", hardware.Path("build/x"), hardware.Path("")):
        assert hardware.free_disk_bytes(path) == pytest.approx(here, rel=0.2)


def test_free_disk_of_a_vanished_current_folder_is_an_error_not_a_hang(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        hardware.free_disk_bytes(hardware.Path("build"))
    os.chdir(tmp_path)


def test_the_peak_counts_what_the_block_used_and_gave_back():
    with hardware.watch_memory() as watch:
        before = watch.peak_bytes
        block = bytearray(os.urandom(1) * (80 * MIB))
        watch.sample()
        del block
    assert 60 * MIB < watch.peak_bytes - before < 400 * MIB


@pytest.mark.alone  # processes beside it share the pages of libraries
def test_the_peak_counts_children():
    code = "import sys; block = bytearray(b'x' * (80 << 20)); print('ready', flush=True); sys.stdin.read()"
    with hardware.watch_memory() as watch:
        before = watch.peak_bytes
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "ready\n"
        watch.sample()
        child.communicate("")
    assert watch.peak_bytes - before > 60 * MIB


def test_the_watch_looks_by_itself_and_stops_when_the_block_fails(monkeypatch):
    monkeypatch.setattr(hardware, "SAMPLE_SECONDS", 0.01)
    looks = []
    monkeypatch.setattr(hardware.MemoryWatch, "sample", lambda self: looks.append(1))

    def fail():
        with hardware.watch_memory():
            while len(looks) < 4:
                time.sleep(0.01)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    seen = len(looks)
    time.sleep(0.1)
    assert len(looks) == seen


def test_cpu_flags_are_words():
    assert all(flag and " " not in flag for flag in hardware.cpu_flags())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give memory back by themselves")
def test_freed_memory_goes_back_to_the_system() -> None:
    process = psutil.Process()
    blocks = [b"x" * 50_000 for _ in range(4000)]
    last = blocks.pop()  # lies above the others, so that nothing is given back by itself
    blocks.clear()
    before = process.memory_info().rss
    hardware.release_memory()
    assert before - process.memory_info().rss > 100_000_000
    assert last


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks among threads
def test_memory_that_a_child_shares_counts_once():
    block = bytearray(200 * MIB)
    block[::4096] = b"x" * len(block[::4096])
    with hardware.watch_memory() as alone:
        pass
    context = multiprocessing.get_context("fork")
    with hardware.watch_memory() as together:
        child = context.Process(target=time.sleep, args=(1,))
        child.start()
        child.join()
    assert together.peak_bytes < alone.peak_bytes + 100 * MIB
    del block
