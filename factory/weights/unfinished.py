"""Files that get their name only when they are whole. Knows bytes on a disk, nothing of models."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".unfinished"


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """Yield a name beside a file's own, which it gets when the block ends well; it goes away when not."""
    temporary = target.with_name(target.name + SUFFIX)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what a killed run left half written in a folder."""
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
