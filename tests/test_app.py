"""`python app.py` is `factory serve`: it says in one line when it cannot start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ADAPTER_FACTORY_CACHE": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_folder_that_is_no_bundle_is_named_in_one_line(tmp_path):
    done = _run(tmp_path, "nowhere")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere is not" in done.stderr


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _run(tmp_path, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "cannot be opened" in done.stderr


def test_another_address_needs_a_flag(tmp_path):
    done = _run(tmp_path, "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "--allow-remote" in done.stderr
