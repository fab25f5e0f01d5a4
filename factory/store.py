"""Atomic files and folders: what has its final name is complete. Knows bytes and paths, nothing of stages."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from factory.errors import ArtifactError

HASH_BLOCK_BYTES = 1 << 20


CACHE_VARIABLE = "ADAPTER_FACTORY_CACHE"


def cache_folder() -> Path:
    """Return the folder for what is made once a machine; the variable ADAPTER_FACTORY_CACHE moves it."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adapter-factory"


def private_key() -> bytes:
    """Return this user's random key, made on first use and readable by nobody else.

    Pseudonyms are keyed by it, so that a masked phone number cannot be found again by trying all numbers.
    """
    path = cache_folder() / "pseudonyms.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        temporary.replace(path)
    return path.read_bytes()


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_once(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, remembered by name, size and time so that large files are read once."""
    stat = path.stat()
    memory = cache_folder() / "hashes.json"
    known = read_json(memory) if memory.exists() else {}
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    if key not in known:
        known[key] = hash_file(path)
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_json(memory, known)
    return str(known[key])


def walk_files(folder: Path) -> list[Path]:
    """Return the regular files below a folder, sorted by relative path; links are not followed."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        found += [Path(root, name) for name in names]
    return sorted(
        (path for path in found if path.is_file() and not path.is_symlink()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )


def hash_folder(folder: Path, ignore: Iterable[str] = ()) -> str:
    """Return one SHA-256 over the relative paths and contents of all files below a folder."""
    skipped = set(ignore)
    files = {path.relative_to(folder).as_posix(): path for path in walk_files(folder)}
    return hash_json({name: hash_file(path) for name, path in files.items() if name not in skipped})


@contextmanager
def open_replacing(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file that takes a path's place when the block ends without an error, flushed to the disk.

    A reader sees the old or the new content, never a part. What a kill leaves behind is for `sweep`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed writers left below a folder."""
    for path in walk_files(folder):
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace a file's text at once."""
    with open_replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Replace a file with a value's indented JSON at once."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ArtifactError: its content is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{str(path)!r} is damaged: it is not JSON ({error}); make it again, or delete its folder"
        ) from error


def sync_folder(folder: Path) -> None:
    """Flush every file below a folder, and the folder's own entries, to the disk."""
    for path in walk_files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_entries(folder)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its final name; an older folder of that name goes away after the switch."""
    sync_folder(temporary)
    discarded = final.with_name(f".{final.name}.old")
    shutil.rmtree(discarded, ignore_errors=True)
    if final.exists():
        final.rename(discarded)
    temporary.rename(final)
    _sync_entries(final.parent)
    shutil.rmtree(discarded, ignore_errors=True)


def _sync_entries(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against a second writer for as long as the block runs.

    Raises:
        BlockingIOError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
