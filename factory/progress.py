"""What a person sees while a stage runs: a bar on a terminal, one line a stage otherwise. Knows no stage."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

QUIET_SECONDS = 30.0


class Progress:
    """A bar for one stage; off a terminal it writes a line every half minute."""

    def __init__(self, name: str) -> None:
        """Open nothing yet."""
        self._name = name
        self._terminal = sys.stderr.isatty()
        self._spoken = time.monotonic()
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self._bars = Bars(*columns, console=Console(stderr=True), disable=not self._terminal, transient=True)
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
        self._bars.update(self._task, completed=done, total=total, note=note)
        if not self._terminal and time.monotonic() - self._spoken > QUIET_SECONDS:
            self._spoken = time.monotonic()
            Console(stderr=True).print(f"  {self._name}: {done}/{total} {note}".rstrip(), highlight=False)

    def training_step(self, row: dict[str, float]) -> None:
        """Say where training stands, from a row of its curve."""
        note = f"loss {row['loss']:.3f}  {row['tokens_per_second']:.0f} tokens/s"
        self.update(int(row["step"]), int(row["num_steps"]), note)
