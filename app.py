"""Starts the playground: `python app.py [--bundle DIR] [--port N]`. Finds bundles and opens the port."""

import argparse
import logging
import socket
import sys
from pathlib import Path

from factory.bundle.manifest import MANIFEST
from factory.errors import FactoryError, UsageError

HOST, PORT = "127.0.0.1", 7860


def find_bundles(root: Path) -> list[Path]:
    """Return the bundles in `adapters/` and `build/*/bundle` below a folder, newest first."""
    manifests = [*root.glob(f"adapters/*/{MANIFEST}"), *root.glob(f"build/*/bundle/{MANIFEST}")]
    return [path.parent for path in sorted(manifests, key=lambda path: (-path.stat().st_mtime, path))]


def check_port(port: int) -> None:
    """Make sure that the port can be opened.

    Raises:
        UsageError: something else has it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(f"Port {port} is taken ({error.strerror}): name another with --port") from error


def serve(bundles: list[Path], port: int) -> None:
    """Serve the playground until it is interrupted.

    Raises:
        FactoryError: there is no bundle, or one is damaged, or gradio is not installed.
    """
    if not bundles:
        raise UsageError(
            "There is no bundle yet: make one with `factory run recipes/quickstart.yaml`, then start this again"
        )
    check_port(port)
    from factory.web.guard import build_app
    from factory.web.ui import build_ui

    application = build_app(build_ui(bundles))
    import uvicorn

    logging.getLogger("playground").info("open http://%s:%d (Ctrl+C ends it)", HOST, port)
    uvicorn.run(application, host=HOST, port=port, log_level="warning")


def main(arguments: list[str] | None = None) -> int:
    """Read the arguments and serve; return the exit code."""
    parser = argparse.ArgumentParser(description="Chat with the models you made, on this machine.")
    parser.add_argument(
        "--bundle", type=Path, action="append", help="a bundle folder; may be given several times"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"the port on {HOST} (default {PORT})")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "asyncio", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        serve(options.bundle or find_bundles(Path.cwd()), options.port)
    except FactoryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
