"""Keeps libraries offline, silent and off standard output, and any error to one line. Imports nothing heavy."""

import ctypes
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

# Each would otherwise call home, look for models on a hub, or draw a progress bar of its own.
VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "DO_NOT_TRACK": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "BITSANDBYTES_NOWELCOME": "1",
}


def settle() -> None:
    """Set what libraries read at import, unless the user has set it already."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for noisy in ("gguf", "transformers", "bm25s", "pdfminer", "bitsandbytes"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


@contextmanager
def spare_output() -> Iterator[None]:
    """Send what libraries, also those in C, write to standard output to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ctypes.CDLL(None).fflush(
            None
        )  # what printf still holds would come out later, in the middle of the JSON
        os.dup2(kept, 1)
        os.close(kept)


def explain(error: Exception, who: str) -> str:
    """Return one line on an error that was not raised on purpose: what it means where that is known, else where it is.

    Types are told by name, so that no library is imported for it.
    """
    kind, first = type(error).__name__, str(error).strip().split("\n")[0]
    if isinstance(error, OSError):
        where = f" {error.filename!r}" if error.filename else ""
        return f"{error.strerror or first}:{where} check that it is there and has room"
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in first:
        return (
            f"{who} ran out of memory ({first or kind}): close other programs, lower train.micro_batch or "
            "train.max_tokens, or name a smaller base"
        )
    if kind == "SafetensorError":
        return f"{who} found a damaged file of weights ({first}): delete its folder and run again"
    return f"unexpected {kind}: {first} ({_place(error)}): please report this; FACTORY_DEBUG=1 shows the traceback"


def _place(error: Exception) -> str:
    """Return the last line of this project that an error came through, as module:line."""
    frames = [
        (str(frame.f_globals.get("__name__")), line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    ours = [(name, line) for name, line in frames if name.split(".")[0] == "factory"]
    name, line = (ours or frames or [("?", 0)])[-1]
    return f"{name}:{line}"
