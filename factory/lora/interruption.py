"""Ctrl-C and SIGTERM held back until training stands between two steps. Knows signals; not what is saved then."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Notes the first SIGINT or SIGTERM inside its block; a second one raises KeyboardInterrupt at once.

    A signal that the process ignores stays ignored, and threads other than the main one hear none.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        self.caught = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_on(self) -> None:
        """Raise KeyboardInterrupt if a signal was caught."""
        if self.caught:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.pass_on()
        self.caught = True
        logger.info("interrupted: a checkpoint is written after this step; once more stops at once")
