"""A mark of training that is under way, from which the next run learns that the system killed it for want of memory.

A process that Linux kills so can say nothing itself. Knows a file and the system's count of such kills.
"""

from pathlib import Path

from factory import store

MARK = "running.json"
COUNTERS = Path("/proc/vmstat")


def num_kills() -> int:
    """Return how many processes the system has killed for want of memory since it started; 0 where it does not say."""
    try:
        lines = COUNTERS.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def mark(folder: Path, micro_batch: int) -> None:
    """Leave word that rows are being computed, so many at once."""
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder / MARK, {"micro_batch": micro_batch, "kills": num_kills()})


def unmark(folder: Path) -> None:
    """Take the mark away: whatever happened, the process could say so itself."""
    (folder / MARK).unlink(missing_ok=True)


def killed_with(folder: Path) -> int:
    """Return the rows at once with which a run was killed for want of memory; 0 if none was."""
    try:
        found = store.read_json(folder / MARK)
        return int(found["micro_batch"]) if num_kills() > int(found["kills"]) else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
