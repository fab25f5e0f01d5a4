"""Collect rows as they come, survive a kill, and write them sorted at the end. Knows rows, no file format.

`partial.jsonl` holds each file's rows followed by a line that seals them; what is not sealed is read again.
`sources.json` of a finished corpus says which bytes gave its rows, so that the next run can take them over.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from factory.store import read_json, write_json

DOCUMENTS, QUARANTINE, SOURCES, PARTIAL = (
    "documents.jsonl",
    "quarantine.jsonl",
    "sources.json",
    "partial.jsonl",
)


@dataclass
class _Source:
    """What came out of one file: where its documents' lines lie, and its refusals."""

    sha256: str = ""
    documents: list[tuple[str, Path, int]] = field(default_factory=list)
    quarantined: list[dict[str, str]] = field(default_factory=list)


class Journal:
    """The rows of one ingest. `reader` names code and limits: rows of another reader are not taken over."""

    def __init__(self, work: Path, previous: Path | None, reader: str) -> None:
        """Load what an interrupted run left in `work` and what `previous` holds."""
        work.mkdir(parents=True, exist_ok=True)
        self._work = work
        self._reader = reader
        self._partial = work / PARTIAL
        self._known = _load_finished(previous, reader) if previous else {}
        self._resumed = _load_partial(self._partial, reader)
        self._sources: dict[str, _Source] = {}
        self._num_reused = 0
        self._file = self._partial.open("ab")
        if not self._file.tell():
            self._file.write(_line({"reader": reader}))

    def __enter__(self) -> Self:
        """Return the journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the partial file, whatever happened; what is sealed in it stays."""
        self._file.close()

    def knows(self, path: str) -> bool:
        """Whether rows of that source file are at hand, provided that its bytes are still the same."""
        return path in self._resumed or path in self._known

    def reuse(self, path: str, sha256: str) -> bool:
        """Take over the rows of a source file with that hash; return whether there were any."""
        for rows in (self._resumed, self._known):
            if path in rows and rows[path].sha256 == sha256:
                self._sources[path] = rows[path]
                self._num_reused += rows is self._known
                return True
        return False

    def refuse(self, path: str, reason: str, detail: str) -> None:
        """Record a file that was not even opened."""
        self._sources[path] = _Source(quarantined=[{"path": path, "reason": reason, "detail": detail}])

    def add(
        self, path: str, sha256: str, documents: list[dict[str, Any]], quarantined: list[dict[str, str]]
    ) -> None:
        """Record what was parsed out of a file; an empty hash means: try again next time."""
        offset = self._file.tell()
        source = _Source(sha256, quarantined=quarantined)
        lines = []
        for row in documents:
            lines.append(_line(row))
            source.documents.append((row["path"], self._partial, offset))
            offset += len(lines[-1])
        seal = _line({"source": path, "sha256": sha256})
        self._file.write(b"".join([*lines, *map(_line, quarantined), seal]))
        self._file.flush()
        self._sources[path] = source

    def finish(self) -> tuple[dict[str, int], Counter[str]]:
        """Write the sorted files, drop the partial one, and return counts and the number of each reason."""
        self._file.close()
        located = sorted(row for source in self._sources.values() for row in source.documents)
        quarantined = [row for source in self._sources.values() for row in source.quarantined]
        quarantined.sort(key=lambda row: (row["path"], row["reason"], row["detail"]))
        counts = {"documents": len(located), "quarantined": len(quarantined), "elements": 0, "characters": 0}
        with (self._work / DOCUMENTS).open("wb") as file:
            for line in _read_lines(located):
                file.write(line)
                row = json.loads(line)
                counts["elements"] += len(row["elements"])
                counts["characters"] += len(row["text"])
            os.fsync(file.fileno())
        with (self._work / QUARANTINE).open("wb") as file:
            file.writelines(map(_line, quarantined))
            os.fsync(file.fileno())
        files = {path: source.sha256 for path, source in self._sources.items() if source.sha256}
        write_json(self._work / SOURCES, {"reader": self._reader, "files": files})
        self._partial.unlink()
        return counts | {"reused": self._num_reused}, Counter(row["reason"] for row in quarantined)


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n").encode("utf-8")


def _read_lines(located: list[tuple[str, Path, int]]) -> Iterator[bytes]:
    files = {file: file.open("rb") for file in {file for _, file, _ in located}}
    try:
        for _, file, offset in located:
            files[file].seek(offset)
            yield files[file].readline()
    finally:
        for open_file in files.values():
            open_file.close()


def _load_partial(partial: Path, reader: str) -> dict[str, _Source]:
    """Return the sealed rows of a run that was cut off, and cut the file after the last of them."""
    sources: dict[str, _Source] = {}
    sealed = 0
    pending = _Source()
    for offset, row in _scan(partial):
        if "reader" in row:
            if row["reader"] != reader:
                break
        elif "source" in row:
            pending.sha256 = row["sha256"]
            sources[row["source"]], pending = pending, _Source()
        elif "reason" in row:
            pending.quarantined.append(row)
        else:
            pending.documents.append((row["path"], partial, offset))
            continue
        if "reason" not in row:
            sealed = offset + len(_line(row))
    if partial.exists():
        os.truncate(partial, sealed)
    return sources


def _load_finished(folder: Path, reader: str) -> dict[str, _Source]:
    """Return the rows of a finished corpus by source file; none when another reader made it."""
    manifest = read_json(folder / SOURCES) if (folder / SOURCES).is_file() else {}
    if manifest.get("reader") != reader:
        return {}
    sources = {path: _Source(sha256) for path, sha256 in manifest["files"].items()}
    for offset, row in _scan(folder / DOCUMENTS):
        if source := _owner(row["path"], sources):
            source.documents.append((row["path"], folder / DOCUMENTS, offset))
    for _, row in _scan(folder / QUARANTINE):
        if source := _owner(row["path"], sources):
            source.quarantined.append(row)
    return sources


def _owner(path: str, sources: dict[str, _Source]) -> _Source | None:
    """Return the file that a row came from: itself, or the container around it."""
    while path not in sources and "!/" in path:
        path = path.rpartition("!/")[0]
    return sources.get(path)


def _scan(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield offset and row of each whole line; stop at a torn one."""
    if not file.exists():
        return
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            yield offset, row
            offset += len(line)
