"""Worker processes that can be killed: hand out files, watch clock and memory, replace the dead. Parse nothing."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from factory.errors import IngestError
from factory.readers.contract import Limits
from factory.readers.offline import ENVIRONMENT
from factory.readers.registry import EXTENSIONS
from factory.rows import Quarantined, ReasonCode

# Parsers leak; a fresh process after this many files keeps memory flat.
FILES_PER_WORKER = 400
START_TIMEOUT_S = 600
# A dying process closes its pipe before its exit code can be read.
DEATH_S = 2.0
# How often a busy worker's memory is looked at. On Linux the kernel refuses what is over the limit before that.
WATCH_S = 0.2
OUT_OF_MEMORY = "The file needs more memory than `memory_gib` allows: split it or raise it."


@dataclass(frozen=True)
class Job:
    """One file to parse: `path` is the document's id, `file` where its bytes are."""

    path: str
    file: Path


@dataclass(frozen=True)
class Answer:
    """The rows that came out of one job, as JSON objects, and the hash of the bytes that were parsed."""

    job: Job
    sha256: str
    documents: list[dict[str, Any]]
    quarantined: list[dict[str, Any]]


@dataclass(frozen=True)
class PoolSettings:
    """What the workers may use; `entry` is the module each runs."""

    limits: Limits
    timeout_s: float
    memory_bytes: int
    workers: int
    entry: str = "factory.readers.worker"


class _Worker:
    """One child process and what it is doing."""

    def __init__(self, settings: PoolSettings, folder: str, formats: list[str]) -> None:
        self.pipe, theirs = Pipe()
        self.job: Job | None = None
        self.files = 0
        self.ready = False
        self.deadline = time.monotonic() + START_TIMEOUT_S
        self._memory_bytes = settings.memory_bytes
        self._next_look = 0.0
        path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", settings.entry, str(theirs.fileno())],
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": path, "TMPDIR": folder},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._send(
            {
                "limits": asdict(settings.limits),
                "timeout_s": settings.timeout_s,
                "memory_bytes": settings.memory_bytes,
                "folder": folder,
                "formats": formats,
            }
        )

    def start(self, job: Job, timeout_s: float) -> None:
        """Hand a job over and start its clock."""
        self.job = job
        self.files += 1
        self.deadline = time.monotonic() + timeout_s
        self._next_look = time.monotonic() + WATCH_S
        self._send({"path": job.path, "file_hex": os.fsencode(job.file).hex()})

    def exceeds_memory(self) -> bool:
        """Tell, looking now and then, whether the process and its children hold more than they may."""
        now = time.monotonic()
        if self.job is None or now < self._next_look:
            return False
        self._next_look = now + WATCH_S
        return _resident_bytes(self.process.pid) > self._memory_bytes

    def stop(self, grace_s: float = 0) -> int:
        """Kill the process and its children unless it ends by itself; return its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.pipe.close()
        return self.process.wait()

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send_bytes(json.dumps(message).encode())


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and all its children; what has ended holds none."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def parse_files(jobs: list[Job], settings: PoolSettings) -> Generator[Answer, None, None]:
    """Yield an answer for every job, in no fixed order; one that kills its worker gets the reason.

    Raises:
        IngestError: workers cannot start.
    """
    waiting = list(reversed(jobs))
    # Readers are imported before the clock runs: from a cold disk that alone can take a minute.
    formats = sorted(
        {EXTENSIONS[suffix] for job in jobs if (suffix := job.file.suffix.lower()) in EXTENSIONS}
    )
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="factory-ingest-") as folder:
        try:
            while waiting or any(worker.job for worker in workers):
                busy = sum(worker.job is not None for worker in workers)
                while len(workers) < min(settings.workers, len(waiting) + busy):
                    workers.append(_Worker(settings, folder, formats))
                _hand_out(workers, waiting, settings)
                for worker in _wait(workers):
                    yield from _collect(worker, settings)
                workers = [worker for worker in workers if not worker.pipe.closed]
        finally:
            for worker in workers:
                worker.stop()


def _hand_out(workers: list[_Worker], waiting: list[Job], settings: PoolSettings) -> None:
    for worker in workers:
        if worker.ready and worker.job is None and waiting:
            worker.start(waiting.pop(), settings.timeout_s)


def _wait(workers: list[_Worker]) -> list[_Worker]:
    """Return the workers that have something to say, or whose time or memory is used up."""
    by_pipe = {worker.pipe: worker for worker in workers if worker.job or not worker.ready}
    next_deadline = min((worker.deadline for worker in by_pipe.values()), default=0.0)
    speaking = wait(list(by_pipe), timeout=max(0.0, min(next_deadline - time.monotonic(), WATCH_S)))
    now = time.monotonic()
    return [
        worker
        for pipe, worker in by_pipe.items()
        if pipe in speaking or worker.deadline <= now or worker.exceeds_memory()
    ]


def _collect(worker: _Worker, settings: PoolSettings) -> Iterator[Answer]:
    if not worker.pipe.poll():
        late = worker.deadline <= time.monotonic()
        yield from _bury(worker, "timeout" if late else "out_of_memory", settings)
        return
    try:
        message = json.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        yield from _bury(worker, "crashed", settings)
        return
    if "fatal" in message:
        raise IngestError(
            f"The reader processes cannot start ({message['fatal']}): check with `factory doctor`."
        )
    if "ready" in message:
        worker.ready = True
        return
    job, worker.job = worker.job, None
    assert job is not None
    yield Answer(job, message["sha256"], message["documents"], message["quarantined"])
    if message.get("spent") or worker.files >= FILES_PER_WORKER:
        worker.stop()


def _bury(worker: _Worker, reason: ReasonCode, settings: PoolSettings) -> Iterator[Answer]:
    """End a worker that hangs, takes too much or died, and answer for the file it had."""
    job = worker.job
    code = worker.stop(grace_s=DEATH_S if reason == "crashed" else 0)
    if job is None:
        raise IngestError(
            f"A reader process ended before it could start (exit code {code}): run `factory doctor`."
        )
    if reason == "timeout" or code == -signal.SIGXCPU:
        reason, detail = (
            "timeout",
            f"Not read within {settings.timeout_s:g} s: split the file or raise `timeout_s`.",
        )
    elif reason == "out_of_memory":
        detail = OUT_OF_MEMORY
    else:
        detail = f"The parser died on it (exit code {code}): open the file and save it again, or convert it."
    yield Answer(
        job, "", [], [Quarantined(path=job.path, reason=reason, detail=detail).model_dump(mode="json")]
    )
