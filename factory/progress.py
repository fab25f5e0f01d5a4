"""What a person sees while a stage runs: a bar on a terminal, a line now and then otherwise. Knows no stage."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

QUIET_SECONDS = 30.0


class Progress:
    """A bar for one stage; off a terminal it writes a line every half minute.

    With a `unit`, updates without a note of their own show how many of it are done a second. Not `shown`, it is silent.
    """

    def __init__(self, name: str, unit: str = "", *, shown: bool = True) -> None:
        """Open nothing yet."""
        self._name, self._unit = name, unit
        self._first: tuple[int, float] | None = None
        self._terminal = sys.stderr.isatty()
        self._spoken = time.monotonic()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        hidden = not (self._terminal and shown)
        self._bars = Bars(*columns, console=Console(stderr=True), disable=hidden, transient=True)
        self._task = self._bars.add_task(name, total=None, note="")

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bars.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say how much is done."""
        note = note or self._rate(done)
        self._bars.update(self._task, completed=done, total=total, note=note)
        if not self._terminal and time.monotonic() - self._spoken > QUIET_SECONDS:
            self._spoken = time.monotonic()
            Console(stderr=True).print(f"  {self._name}: {done}/{total} {note}".rstrip(), highlight=False)

    def _rate(self, done: int) -> str:
        """Return the speed since the first update, which may come late in a run that was resumed."""
        first, started = self._first = self._first or (done, time.monotonic())
        passed = time.monotonic() - started
        return (
            f"{(done - first) / passed:.1f} {self._unit}/s" if self._unit and done > first and passed else ""
        )

    def training_step(self, row: dict[str, float]) -> None:
        """Say where training stands, from a row of its curve; one without a loss says nothing."""
        if "loss" not in row:
            return
        done, total = int(row["step"]), int(row["num_steps"])
        note = f"loss {row['loss']:.3f}  {row['tokens_per_second']:.0f} tokens/s  {row['mfu']:.0%} MFU"
        note += f"  {row['memory_bytes'] / 2**30:.1f} GiB"
        if not self._terminal:  # the bar has a column for it
            note += f"  {(total - done) * row['seconds'] / done / 60:.1f} min left"
        self.update(done, total, note)


class _Lines(logging.Handler):
    """Writes to what standard error is at the time: while a bar is shown, that puts lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one plain line."""
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        sys.stderr.write(f"  {warning}{' '.join(record.getMessage().split())}\n")


@contextmanager
def shown_log() -> Iterator[None]:
    """Show what the factory logs, from INFO on, while the block runs."""
    logger, lines = logging.getLogger("factory"), _Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
