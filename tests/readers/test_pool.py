import os
import subprocess
import sys
import time

import psutil
import pytest

from factory.errors import IngestError
from factory.readers.contract import Limits
from factory.readers.pool import Job, PoolSettings, parse_files

ODD_WORKER = """
import os, signal, socket, subprocess, sys, time
from factory.readers import worker

def swell():
    held = []
    for _ in range(100):
        held.append(b"x" * (20 << 20))
        time.sleep(0.1)

def read(path, data, sha256, limits):
    name = path.rpartition("/")[2]
    if name == "slow":
        time.sleep(60)
    if name == "busy":
        while True: pass
    if name == "exits":
        os._exit(0)
    if name == "faults":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "greedy":
        bytearray(8 << 30)
    if name == "swells":
        swell()
    if name == "child swells":
        subprocess.run([sys.executable, "-c", "from odd_worker import swell; swell()"])
    return {"sha256": sha256, "documents": [{"path": path, "pid": os.getpid()}], "quarantined": []}

worker.prepare_process = lambda: None
worker._read = read
if __name__ == "__main__":
    worker.main(int(sys.argv[1]))
"""
# macOS has no limit of its own: here the pool alone watches.
UNLIMITED_WORKER = """
import resource, sys
resource.setrlimit = lambda *_limits: None
from odd_worker import worker
worker.main(int(sys.argv[1]))
"""
ORPHANED = """
import sys
from pathlib import Path
from factory.readers.contract import Limits
from factory.readers.pool import Job, PoolSettings, parse_files
jobs = [Job(name, Path(name).resolve()) for name in ("a", "b")]
answers = parse_files(jobs, PoolSettings(Limits(), 60, 4 << 30, 1, "odd_worker"))
print(next(answers).documents[0]["pid"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "odd_worker.py").write_text(ODD_WORKER)
    (tmp_path / "unlimited_worker.py").write_text(UNLIMITED_WORKER)
    monkeypatch.syspath_prepend(tmp_path)

    def parse(names, workers=1, timeout_s=1.0, entry="odd_worker", memory_bytes=4 << 30):
        jobs = []
        for name in names:
            (tmp_path / name).write_text("x")
            jobs.append(Job(name, tmp_path / name))
        settings = PoolSettings(Limits(), timeout_s, memory_bytes, workers, entry)
        return {answer.job.path: answer for answer in parse_files(jobs, settings)}

    return parse


def reasons(answers):
    return {path: [row["reason"] for row in answer.quarantined] for path, answer in answers.items()}


def test_only_the_file_that_kills_its_worker_is_lost(run):
    names = ["a", "exits", "b", "faults", "c", "greedy", "d"]
    answers = run(names, workers=2, timeout_s=20)
    lost = {"exits": ["crashed"], "faults": ["crashed"], "greedy": ["out_of_memory"]}
    assert reasons(answers) == {name: lost.get(name, []) for name in names}


def test_a_file_that_takes_too_long_is_given_up(run):
    begin = time.monotonic()
    assert reasons(run(["slow", "a", "busy"], timeout_s=0.5)) == {
        "slow": ["timeout"],
        "a": [],
        "busy": ["timeout"],
    }
    assert time.monotonic() - begin < 15


def test_a_worker_that_swells_is_killed_where_the_system_sets_no_limit(run):
    names = ["a", "swells", "b", "child swells", "c"]
    answers = run(names, timeout_s=60, entry="unlimited_worker", memory_bytes=300 << 20)
    lost = {"swells": ["out_of_memory"], "child swells": ["out_of_memory"]}
    assert reasons(answers) == {name: lost.get(name, []) for name in names}
    assert "`memory_gib`" in answers["swells"].quarantined[0]["detail"]
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if "import swell" in str(process.info)
    ]


def test_workers_of_a_killed_run_end_and_clear_their_folder(run, tmp_path):
    run(["a", "b"], timeout_s=20)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    command = [sys.executable, "-c", ORPHANED]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as pool:
        worker = psutil.Process(int(pool.stdout.readline()))
        assert len(list(temporary.iterdir())) == 1
        pool.kill()
    worker.wait(timeout=20)
    assert list(temporary.iterdir()) == []


def test_one_process_reads_many_files_and_is_replaced_in_time(run, monkeypatch):
    monkeypatch.setattr("factory.readers.pool.FILES_PER_WORKER", 4)
    answers = run([f"f{n}" for n in range(10)], timeout_s=20)
    used = [answer.documents[0]["pid"] for answer in answers.values()]
    assert [used.count(pid) for pid in dict.fromkeys(used)] == [4, 4, 2]


def test_a_file_that_vanished_is_unreadable(run, tmp_path):
    settings = PoolSettings(Limits(), 20, 4 << 30, 1, "odd_worker")
    (answer,) = parse_files([Job("gone", tmp_path / "gone")], settings)
    assert [row["reason"] for row in answer.quarantined] == ["unreadable"]


def test_workers_that_cannot_start_are_an_error(run, tmp_path):
    (tmp_path / "bad_worker.py").write_text("import none_such_module")
    with pytest.raises(IngestError, match="ended before it could start"):
        run(["a"], entry="bad_worker")


def test_leaving_early_kills_the_workers(run, tmp_path):
    settings = PoolSettings(Limits(), 60, 4 << 30, 1, "odd_worker")
    (tmp_path / "a").write_text("x")
    (tmp_path / "slow").write_text("x")
    answers = parse_files([Job("a", tmp_path / "a"), Job("slow", tmp_path / "slow")], settings)
    pid = next(answers).documents[0]["pid"]
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
