"""The process that parses: reads paths from a pipe, answers rows as JSON. Knows no schedule and no output."""

import gc
import json
import os
import resource
import shutil
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from factory.readers.contract import Limits, ReadError
from factory.readers.offline import prepare_process
from factory.readers.pool import OUT_OF_MEMORY
from factory.readers.registry import load_reader
from factory.readers.source import read_source
from factory.rows import Quarantined, Row
from factory.store import hash_bytes

# CPU seconds a file may use beyond its wall-clock limit before the kernel ends the process.
SPARE_CPU_S = 5


def main(descriptor: int) -> None:
    """Answer requests from the pipe with that descriptor until it is closed."""
    pipe = Connection(descriptor)
    try:
        settings = json.loads(pipe.recv_bytes())
        _prepare(settings)
    except Exception as error:
        pipe.send_bytes(_pack({"fatal": f"{type(error).__name__}: {error}"}))
        return
    pipe.send_bytes(_pack({"ready": True}))
    limits = Limits(**settings["limits"])
    try:
        while True:
            request = json.loads(pipe.recv_bytes())
            _limit_cpu(settings["timeout_s"])
            pipe.send_bytes(_pack(_answer(request, limits)))
    except (
        EOFError,
        ConnectionError,
    ):  # the run was killed: a pool that ends by itself kills its workers first
        shutil.rmtree(settings["folder"], ignore_errors=True)


def _prepare(settings: dict[str, Any]) -> None:
    os.chdir(settings["folder"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"], settings["memory_bytes"]))
    prepare_process()
    for name in settings["formats"]:
        load_reader(name)
    # Parsers make many short-lived trees: collecting less often is a fifth faster.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _limit_cpu(timeout_s: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent + timeout_s) + SPARE_CPU_S, hard))


def _answer(request: dict[str, str], limits: Limits) -> dict[str, Any]:
    path = request["path"]
    sha256 = ""
    try:
        data = Path(os.fsdecode(bytes.fromhex(request["file_hex"]))).read_bytes()
        sha256 = hash_bytes(data)
        return _read(path, data, sha256, limits)
    except OSError as error:
        refusal = ReadError(
            "unreadable", f"The file cannot be read ({error.strerror}): check its permissions."
        )
    except MemoryError:
        refusal = ReadError("out_of_memory", OUT_OF_MEMORY)
    row = Quarantined(path=path, reason=refusal.reason, detail=refusal.detail)
    return {
        "sha256": sha256,
        "documents": [],
        "quarantined": [_dump(row)],
        "spent": refusal.reason == "out_of_memory",
    }


def _read(path: str, data: bytes, sha256: str, limits: Limits) -> dict[str, Any]:
    reading = read_source(path, data, limits)
    return {
        "sha256": sha256,
        "documents": [_dump(row) for row in reading.documents],
        "quarantined": [_dump(row) for row in reading.quarantined],
    }


def _dump(row: Row) -> dict[str, Any]:
    return row.model_dump(mode="json")


def _pack(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False).encode("utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]))
