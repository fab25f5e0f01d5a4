"""The curves of training on disk while it runs: JSON Lines for us, an event file for TensorBoard. Computes nothing.

A row with `loss` belongs to a step, one with `recall` to a measurement after it, one with `stage` to what came after
the rows, such as preferences.
"""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from factory import store

LOSS, RECALL = "loss.jsonl", "recall.jsonl"
EVENTS = (
    "tensorboard/events.out.tfevents.train"  # always the same name: TensorBoard's own holds time and host
)
SHOWN = ("loss", "learning_rate", "tokens_per_second", "mfu", "memory_bytes", "recall")
FLUSH_SECONDS = 5.0  # of the event file: each flush waits for the disk
Row = dict[str, Any]


def following(row: Row, last: Row, stage: str) -> Row:
    """Return a row of a later stage, counted on from the last one before that stage."""
    return (
        row | {name: row[name] + last[name] for name in ("step", "seconds") if name in row} | {"stage": stage}
    )


class Curves:
    """Writes rows as they come; the first one after a resume cuts off what a killed run had written past it."""

    def __init__(self, folder: Path) -> None:
        """Open nothing yet: where training goes on is known with the first row."""
        self._folder = folder
        self._lines: dict[str, TextIO] = {}
        self._events: Any = None
        self._flushed = 0.0

    def __enter__(self) -> Self:
        """Wait for rows."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._close()

    def add(self, row: Row) -> None:
        """Write one row, so that a reader of its file sees it at once, and TensorBoard within seconds."""
        if self._events is None:
            self._open(row)
        file = self._lines[RECALL if "recall" in row else LOSS]
        file.write(_line(row))
        file.flush()
        _write_event(self._events, row, time.time())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._events.flush()
            self._flushed = time.monotonic()

    def finish(self, history: Sequence[Row], recall: Sequence[Row]) -> None:
        """Write all curves anew, whole and in order."""
        self._close()
        _write_lines(self._folder / LOSS, history)
        _write_lines(self._folder / RECALL, recall)
        events = _new_events(self._folder / EVENTS, [*history, *recall])
        events.close()

    def _open(self, first: Row) -> None:
        """Keep the rows before the first one that comes: a measurement comes after its step's loss."""
        kept: list[Row] = []
        for name in (LOSS, RECALL):
            end = first["step"] + (name == LOSS and "recall" in first)
            before = [row for row in _read_lines(self._folder / name) if row["step"] < end]
            _write_lines(self._folder / name, before)
            self._lines[name] = (self._folder / name).open("a", encoding="utf-8")
            kept += before
        self._events = _new_events(self._folder / EVENTS, kept)

    def _close(self) -> None:
        for file in self._lines.values():
            file.close()
        if self._events is not None:
            self._events.close()
        self._lines, self._events = {}, None


def _line(row: Row) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


def _write_lines(path: Path, rows: Iterable[Row]) -> None:
    store.write_text(path, "".join(map(_line, rows)))


def _read_lines(path: Path) -> list[Row]:
    """Return the rows up to the first that is not whole; there are none in a missing file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _new_events(path: Path, rows: Sequence[Row]) -> Any:
    """Return an event file that holds these rows already, each at about its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    events = RecordWriter(str(path))
    now, passed = time.time(), max((row.get("seconds", 0.0) for row in rows), default=0.0)
    events.write(Event(wall_time=now - passed, file_version="brain.Event:2").SerializeToString())
    at = 0.0
    for row in sorted(rows, key=lambda row: row["step"]):
        at = row.get("seconds", at)
        _write_event(events, row, now - passed + at)
    events.flush()
    return events


def _write_event(events: Any, row: Row, wall_time: float) -> None:
    for name in SHOWN:
        if name in row:
            tag = f"{row['stage']}/{name}" if "stage" in row else name
            event = Event(wall_time=wall_time, step=int(row["step"]), summary=scalar(tag, row[name]))
            events.write(event.SerializeToString())
