"""What this machine has, and how much memory a block of code used. Knows processes, not models."""

import ctypes
import gc
import os
import platform
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from factory import cgroup

SAMPLE_SECONDS = 0.2


@dataclass
class MemoryWatch:
    """The highest resident memory seen so far, over this process and all its children, in bytes."""

    peak_bytes: int = 0
    _largest_rss: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def sample(self) -> None:
        """Look once and keep the larger figure.

        Pages that processes share count once, also those of a child that has forked and not yet become its program.
        Telling them apart takes tens of milliseconds in which a process cannot get memory, so it is done for several
        processes and what would be a new peak only.
        """
        me = psutil.Process()
        processes = [me, *me.children(recursive=True)]
        total = sum(_resident_bytes(process, "rss") for process in processes)
        if total <= self._largest_rss:
            return
        self._largest_rss = total
        if len(processes) > 1:
            total = sum(_resident_bytes(process, "pss") for process in processes)
        self.peak_bytes = max(self.peak_bytes, total)


def _resident_bytes(process: psutil.Process, kind: str) -> int:
    """Return a process's resident memory; `pss` shares out what others use as well, where the system knows it."""
    try:
        found = process.memory_full_info() if kind == "pss" else process.memory_info()
    except psutil.Error:
        return 0
    return int(getattr(found, kind, 0) or found.rss)


@contextmanager
def watch_memory() -> Iterator[MemoryWatch]:
    """Sample the process tree's resident memory five times a second while the block runs."""
    watch = MemoryWatch()

    def loop() -> None:
        while not watch._done.wait(SAMPLE_SECONDS):
            watch.sample()

    thread = threading.Thread(target=loop, daemon=True)
    watch.sample()
    thread.start()
    try:
        yield watch
    finally:
        watch._done.set()
        thread.join()
        watch.sample()


def release_memory() -> None:
    """Give what is no longer used back to the system; glibc keeps it otherwise, and the next stage adds its own."""
    gc.collect()
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def num_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(_own_cores())


def _own_cores() -> Collection[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


class OthersWork:
    """Watches how many cores other programs keep busy, of those this process may run on."""

    def __init__(self) -> None:
        """Begin to watch."""
        self._process = psutil.Process()
        self.cores()

    def cores(self) -> float:
        """Return how many cores others kept busy since the last call, or since the beginning; a mean, at least 0."""
        shares = psutil.cpu_percent(percpu=True)
        busy = sum(shares[core] for core in _own_cores() if core < len(shares))
        return max(0.0, busy - self._process.cpu_percent()) / 100


def total_memory_bytes() -> int:
    """Return the machine's physical memory, or what a container may take of it."""
    total, limit = int(psutil.virtual_memory().total), cgroup.limit_bytes()
    return total if limit is None else min(total, limit)


def available_memory_bytes() -> int:
    """Return the memory that can be used now without swapping, and without passing a container's limit."""
    available, free = int(psutil.virtual_memory().available), cgroup.free_bytes()
    return available if free is None else min(available, free)


def free_disk_bytes(path: Path) -> int:
    """Return the free space of the disk that holds a path, or its nearest existing parent."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return int(psutil.disk_usage(str(path)).free)


def cpu_flags() -> set[str]:
    """Return the CPU's feature flags where the system tells them, else an empty set."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    for line in info.read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.split(":", 1)[1].split())
    return set()


def describe_machine() -> str:
    """Return one line that says what this machine is, without naming it."""
    memory_gib = total_memory_bytes() / 2**30
    return f"{platform.system()} {platform.machine()}, {num_cores()} cores, {memory_gib:.0f} GiB"
