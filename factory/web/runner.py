"""The process of a training run: its command, its environment, whether it still lives, how it ends. Knows no queue."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from factory.web.job import CANCEL, DOCUMENTS, LOG, Job

Command = Callable[[Job, Path, Path, Path], list[str]]
SECRET = re.compile(r"(key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
ATTEMPT = "$ "  # what a line of the log that begins an attempt starts with
POLL_S = 0.2
CLOCK_TOLERANCE_S = 2.0  # the kernel derives start times from a clock that is corrected while it runs


def run_arguments(job: Job, recipe: Path, folder: Path, root: Path) -> list[str]:
    """Return the arguments of `factory`, called in `root`, that do what a job does.

    The recipe's own choice of files and its questions are about other documents, so both are set aside.
    """
    values: dict[str, object] = {
        "name": job.name,
        "ingest.source": _shown(folder / DOCUMENTS, root),
        "ingest.include": ["**"],
        "evaluate.questions": None,
    }
    if job.epochs:
        values["train.epochs"] = job.epochs
    arguments = ["run", _shown(recipe, root)]
    for key, value in values.items():
        arguments += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return [*arguments, "--out", _shown(folder, root)]


def run_command(job: Job, recipe: Path, folder: Path, root: Path) -> list[str]:
    """Return the command that runs a job with this interpreter."""
    return [sys.executable, "-m", "factory.cli", *run_arguments(job, recipe, folder, root)]


def shell_command(job: Job, recipe: Path, folder: Path, root: Path) -> str:
    """Return what a person types in `root` to do the same."""
    return shlex.join(["factory", *run_arguments(job, recipe, folder, root)])


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables whose names end like those of keys and passwords."""
    return {name: value for name, value in environment.items() if not SECRET.search(name)}


def start(command: list[str], folder: Path, root: Path, shown: str) -> psutil.Popen:
    """Start a command in a process group of its own, without keys; all it says is added to the folder's log."""
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(f"{ATTEMPT}{shown}\n")
        log.flush()
        return psutil.Popen(
            command,
            cwd=root,
            env=without_secrets(os.environ) | {"PYTHONPATH": _import_path()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def find(job: Job) -> psutil.Process | None:
    """Return a running job's process, or None when it has ended and its pid, at most, is somebody else's."""
    if job.pid is None or job.process_started is None:
        return None
    try:
        process = psutil.Process(job.pid)
        same = abs(process.create_time() - job.process_started) <= CLOCK_TOLERANCE_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def wait(process: psutil.Process, folder: Path, patience_s: float, left: Callable[[], bool]) -> int | None:
    """Wait for a process and return its exit code, None when it cannot be known.

    Once the folder holds the mark of a cancelled job, the process group is interrupted, and killed after
    `patience_s`. Waiting ends early, too, when `left` says so: the process is then let alone.
    """
    asked: float | None = None
    while not left():
        try:
            code = process.wait(POLL_S)
            return None if code is None else int(code)
        except psutil.TimeoutExpired:
            pass
        if asked is None and (folder / CANCEL).exists():
            asked = time.monotonic()
            _signal(process, signal.SIGINT)
        elif asked is not None and time.monotonic() - asked > patience_s:
            _signal(process, signal.SIGKILL)
    return None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to the group of a process; a kill reaches descendants in groups of their own as well."""
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        descendants = process.children(recursive=True)
        os.killpg(process.pid, number)
    if number == signal.SIGKILL:
        for member in descendants:
            with contextlib.suppress(psutil.Error):
                member.kill()


def _import_path() -> str:
    """Return a PYTHONPATH with which the command finds this very package, wherever it is called."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
