"""The worker's talk over its pipe: one answer for every request, whatever the file and its name are."""

import json
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest

from factory.store import hash_bytes

# The tagger that is left out takes seconds to import and is not needed for records.
START = """
import sys
from factory.readers import worker
worker.prepare_process = lambda: None
worker.main(int(sys.argv[1]))
"""
SETTINGS = {"limits": {"max_pages": 9}, "timeout_s": 40, "memory_bytes": 4 << 30, "formats": ["jsonl"]}
TEXT = '{"pump": "Zéphyrine", "litres": 42}\n'


class _Talk:
    """A worker process and our end of its pipe."""

    def __init__(self, settings: dict) -> None:
        self.pipe, theirs = Pipe()
        command = [sys.executable, "-c", START, str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[2])
        theirs.close()
        self.first = self.ask(settings)

    def ask(self, message: dict) -> dict:
        self.pipe.send_bytes(json.dumps(message).encode())
        assert self.pipe.poll(60)
        return json.loads(self.pipe.recv_bytes())

    def read(self, path: str, file: Path) -> dict:
        return self.ask({"path": path, "file_hex": os.fsencode(file).hex()})

    def end(self) -> int:
        self.pipe.close()
        return self.process.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def worker(folder):
    talk = _Talk(SETTINGS | {"folder": str(folder)})
    yield talk
    talk.end()


def test_a_file_is_answered_with_its_rows_and_the_hash_of_its_bytes(worker, tmp_path) -> None:
    assert worker.first == {"ready": True}
    file = tmp_path / "a.jsonl"
    file.write_text(TEXT, encoding="utf-8")
    answer = worker.read("stock/a.jsonl", file)
    (document,) = answer["documents"]
    assert (document["path"], document["format"]) == ("stock/a.jsonl", "jsonl")
    assert "Zéphyrine" in document["text"]
    assert answer["sha256"] == document["sha256"] == hash_bytes(TEXT.encode())
    assert (answer["quarantined"], answer.get("spent", False)) == ([], False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such file name")
def test_a_file_whose_name_is_no_text_is_read_all_the_same(worker, tmp_path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff.jsonl"))
    file.write_text(TEXT, encoding="utf-8")
    assert worker.read("p.jsonl", file)["sha256"] == hash_bytes(TEXT.encode())


def test_what_cannot_be_read_or_parsed_has_its_reason_and_the_worker_goes_on(worker, tmp_path) -> None:
    answer = worker.read("gone.jsonl", tmp_path / "gone.jsonl")
    assert answer["quarantined"] == [
        {
            "path": "gone.jsonl",
            "reason": "unreadable",
            "detail": "The file cannot be read (No such file or directory): check its permissions.",
        }
    ]
    assert (answer["sha256"], answer["documents"], answer["spent"]) == ("", [], False)
    (tmp_path / "empty.jsonl").touch()
    answer = worker.read("empty.jsonl", tmp_path / "empty.jsonl")
    assert [row["reason"] for row in answer["quarantined"]] == ["empty"]
    assert answer["sha256"] == hash_bytes(b"")


@pytest.mark.skipif(sys.platform != "linux", reason="psutil knows another process's limits on Linux only")
def test_the_kernel_limits_memory_core_files_and_the_time_of_each_file(worker, tmp_path) -> None:
    worker.read("x", tmp_path / "x")
    process = psutil.Process(worker.process.pid)
    assert process.rlimit(psutil.RLIMIT_AS) == (4 << 30, 4 << 30)
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    spent = sum(process.cpu_times()[:2])
    assert 44 <= process.rlimit(psutil.RLIMIT_CPU)[0] <= spent + 45  # 40 s and 5 to spare beyond what is used


def test_settings_that_do_not_work_are_reported_and_end_the_worker(tmp_path) -> None:
    talk = _Talk(SETTINGS | {"folder": str(tmp_path / "none")})
    assert talk.first["fatal"].startswith("FileNotFoundError: ")
    assert talk.end() == 0


def test_a_closed_pipe_ends_the_worker_and_clears_its_folder(tmp_path) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "left.txt").write_text("over")
    talk = _Talk(SETTINGS | {"folder": str(folder)})
    assert talk.first == {"ready": True}
    assert talk.end() == 0
    assert not folder.exists()
