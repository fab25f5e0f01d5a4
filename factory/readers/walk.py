"""Find the files of a source folder that globs select. Knows names, links and permissions; opens nothing."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.errors import IngestError
from factory.readers.contract import ReadError


@dataclass(frozen=True)
class Found:
    """A file or folder below the source: `path` is its id; `refusal` says why it is not to be opened."""

    path: str
    file: Path
    size_bytes: int = 0
    refusal: ReadError | None = None

    def oversize(self, max_bytes: int) -> ReadError | None:
        """Return the refusal of a file beyond the limit."""
        if self.size_bytes <= max_bytes:
            return None
        return ReadError(
            "too_large",
            f"It has {self.size_bytes >> 20:,} MiB (limit {max_bytes >> 20:,}): raise `max_file_mib`.",
        )


def find_files(source: Path, include: Sequence[str], exclude: Sequence[str]) -> list[Found]:
    """Return the files below a folder that a pattern includes and none excludes, sorted by path.

    Raises:
        IngestError: the folder is missing, cannot be read, or has no such file.
    """
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "does not exist"
        raise IngestError(f"The source {str(source)!r} {what}: set `ingest.source` to a folder of documents")
    if not os.access(source, os.R_OK | os.X_OK):
        raise IngestError(f"The source folder {str(source)!r} cannot be read: check its permissions")
    source = source.absolute()
    included, excluded = _compile(include), _compile(exclude)
    found = {
        item.path: item
        for item in _walk(source)
        if included.match(item.path) and not excluded.match(item.path)
    }
    if not found:
        raise IngestError(f"The source folder {str(source)!r} holds no files to read: put documents into it")
    return [found[path] for path in sorted(found)]


def _walk(source: Path) -> Iterator[Found]:
    failed: list[OSError] = []
    for root, folders, names in os.walk(source, followlinks=False, onerror=failed.append):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted(names + links):
            yield _look_at(source, Path(root, name))
        while failed:
            yield _unreadable(source, Path(failed.pop().filename))
    for error in failed:
        yield _unreadable(source, Path(error.filename))


def _look_at(source: Path, file: Path) -> Found:
    path = _id_of(source, file)
    if file.is_symlink():
        return Found(
            path, file, refusal=ReadError("link", "A symbolic link is not followed: copy the file itself.")
        )
    if not file.is_file():
        return Found(
            path, file, refusal=ReadError("unsupported", "It is a pipe, socket or device: remove it.")
        )
    if not os.access(file, os.R_OK):
        return _unreadable(source, file)
    return Found(path, file, file.stat().st_size)


def _unreadable(source: Path, file: Path) -> Found:
    detail = "It may not be opened by this user: check its permissions."
    return Found(_id_of(source, file), file, refusal=ReadError("unreadable", detail))


def _id_of(source: Path, file: Path) -> str:
    """Return the relative path with forward slashes; bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(file.relative_to(source).as_posix()).decode("utf-8", errors="backslashreplace")


def _compile(patterns: Sequence[str]) -> re.Pattern[str]:
    """Return one pattern for globs: '**/' spans any folders or none, '*' stays inside one."""
    return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns) or r"(?!)", re.S)


def _translate(pattern: str) -> str:
    parts = []
    for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece)
        if known is None:
            known = f"[{piece[1:-1].replace('!', '^', 1)}]" if piece.startswith("[") else re.escape(piece)
        parts.append(known)
    return "".join(parts) + r"\Z"
