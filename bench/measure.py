"""What a training process says of itself: time and loss of each step, memory, versions. Knows no trainer.

Both sides import it, the peer's in an environment without the project: the standard library only.
"""

import json
import platform
import resource
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

WARM_STEPS = 2  # the first ones allocate, and are left out of the time on both sides
MEBIBYTE = 2**20


def read_rows(path: str, limit: int | None = None) -> list[dict[str, list[int]]]:
    """Return the rows of a file of `ids` and `labels`, the first `limit` if that is given."""
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return rows[:limit]


def batches(
    rows: Sequence[dict[str, list[int]]], size: int, epochs: int
) -> Iterator[list[dict[str, list[int]]]]:
    """Yield each step's rows: they lie in the order of training, the same in each epoch."""
    for _ in range(epochs):
        for start in range(0, len(rows), size):
            yield list(rows[start : start + size])


def _status(path: str, key: str) -> float | None:
    """Return a figure in kB of a file of the kernel about this process, in MiB."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 / MEBIBYTE for line in lines if line.startswith(f"{key}:")), None
    )


def memory() -> dict[str, float | None]:
    """Return the highest resident memory so far, and the share of this process in what it has now, in MiB."""
    peak = _status("/proc/self/status", "VmHWM")
    if peak is None:  # elsewhere than on Linux; macOS counts bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE
    return {"peak_mib": peak, "pss_mib": _status("/proc/self/smaps_rollup", "Pss")}


def summarize(
    steps: Sequence[Sequence[dict[str, list[int]]]], ends: Sequence[float], losses: Sequence[float]
) -> dict[str, object]:
    """Return rates over the steps after the first `WARM_STEPS`, and the loss of all.

    Args:
        steps: the rows of each step.
        ends: when each step ended, in seconds.
        losses: the mean loss a token of each step, in nats.

    Raises:
        ValueError: a step is missing, or none is left to be timed.
    """
    if not WARM_STEPS < len(steps) == len(ends) == len(losses):
        raise ValueError(
            f"{len(steps)} steps, {len(ends)} times and {len(losses)} losses: more rows are needed"
        )
    timed = [row for step in steps[WARM_STEPS:] for row in step]
    seconds = ends[-1] - ends[WARM_STEPS - 1]
    return {
        "examples_per_second": len(timed) / seconds,
        "tokens_per_second": sum(len(row["ids"]) for row in timed) / seconds,
        "seconds_per_row": seconds / len(timed),
        "losses": [round(loss, 6) for loss in losses],
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and some packages."""
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def say(result: dict[str, object]) -> None:
    """Write a result as one line."""
    sys.stdout.write(json.dumps(result) + "\n")
