"""Prepare a worker process to parse untrusted files: no network, no torch, no telemetry, no model download.

Call `prepare_process` before anything imports `unstructured`. Knows nothing of formats.
"""

import importlib
import os
import socket
import sys
from typing import Any

# Read in unstructured 0.27.32: telemetry at import and per call, a printed notice, and NLTK or hub downloads.
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "SCARF_NO_ANALYTICS": "true",
    "UNSTRUCTURED_DISABLE_NOTICE": "1",
    "AUTO_DOWNLOAD_NLTK": "False",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# spaCy's thinc imports these when they are there: seconds of start-up and hundreds of MiB for nothing.
UNWANTED_MODULES = ("torch", "tensorflow", "mxnet", "cupy", "transformers", "sklearn", "matplotlib")


def prepare_process() -> None:
    """Shut off the network and heavy modules, then give unstructured a tagger that needs no model."""
    os.environ.update(ENVIRONMENT)
    for name in UNWANTED_MODULES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    refuse_network()
    importlib.import_module("factory.readers.tagger").use_lite_tagger()


def refuse_network() -> None:
    """Make every attempt to reach another machine or a local service fail in this process."""

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise PermissionError("the network is off while documents are read")

    for name in ("connect", "connect_ex", "sendto", "sendmsg"):
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = refuse
    socket.create_connection = refuse
