"""Threads that make way: where others work on a core, all threads of a step would wait for the one there."""

import logging
import math
import time
from typing import Self

import torch

from factory import hardware

logger = logging.getLogger(__name__)
LOOK_SECONDS = 5.0
FIRST_SECONDS = (
    1.0  # of watching before the first look: one step can take half a minute beside two busy programs
)


class Threads:
    """Leaves cores that others keep busy to them while its block runs, and takes them back when they are free.

    A matrix product ends when its slowest thread does. On two cores with another busy program on one of them, two
    threads train half as fast as one.
    """

    def __init__(self, enabled: bool) -> None:
        """Watch others from now on; not `enabled`, change nothing."""
        self._most = torch.get_num_threads()
        self._others = hardware.OthersWork() if enabled and self._most > 1 else None
        self._next_look, self._told = time.monotonic() + FIRST_SECONDS, False

    def __enter__(self) -> Self:
        """Return the threads."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take all threads again."""
        torch.set_num_threads(self._most)

    def make_way(self) -> None:
        """Take as many threads as cores are free; looks each few seconds, so it may be called between all steps."""
        now = time.monotonic()
        if self._others is None or now < self._next_look:
            return
        self._next_look, others = now + LOOK_SECONDS, self._others.cores()
        threads = num_threads(self._most, hardware.num_cores(), others)
        if threads == torch.get_num_threads():
            return
        if threads < self._most and not self._told:
            logger.info(
                "other programs keep %.1f of %d cores busy: training goes on with %d of %d threads, which is faster, "
                "until they are done",
                others, hardware.num_cores(), threads, self._most,
            )  # fmt: skip
            self._told = True
        torch.set_num_threads(threads)


def num_threads(most: int, cores: int, others: float) -> int:
    """Return how many threads to compute with.

    Args:
        most: threads where nobody else works.
        cores: cores that may be used.
        others: cores that other programs keep busy.

    Returns:
        A thread for each free core, half a core counting as one, but at least half of `most`: what others keep busy
        grows as this one makes way.
    """
    return min(most, max(math.ceil(most / 2), math.floor(cores - others + 0.5)))
