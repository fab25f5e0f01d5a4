"""Keeps libraries offline, silent and off standard output. Imports nothing heavy."""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

# Each would otherwise call home, look for models on a hub, or draw a progress bar of its own.
VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
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
    for noisy in ("gguf", "transformers", "bm25s", "pdfminer"):
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
