"""The memory that a container leaves to its processes: a limit of their control group, which psutil does not see.

Source: the kernel's cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# Names of the limit, of what is in use, and of the part of that which is a file's and can be dropped.
FILES = {
    "v2": ("memory.max", "memory.current", "inactive_file"),
    "v1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def limit_bytes() -> int | None:
    """Return the memory that all processes of the group may take together, None where nothing limits it."""
    return min((limit for limit, _ in _limits()), default=None)


def free_bytes() -> int | None:
    """Return what is left of it, None where nothing limits it."""
    return min((max(0, limit - used) for limit, used in _limits()), default=None)


def _limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use of the group and of those that it lies in, as far as they have one, in bytes."""
    for folder, version in _folders():
        limit_name, used_name, droppable_name = FILES[version]
        try:
            limit = (folder / limit_name).read_text().strip()
            used = int((folder / used_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if limit.isdigit():  # "max" is none
                yield int(limit), used - int(stat.get(droppable_name, 0))
        except (OSError, ValueError):
            continue


def _folders() -> Iterator[tuple[Path, str]]:
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            root, version = ROOT, "v2"
        elif "memory" in controllers.split(","):
            root, version = ROOT / "memory", "v1"
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root:
            yield folder, version
            folder = folder.parent
        yield root, version
