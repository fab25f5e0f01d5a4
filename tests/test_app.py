"""`python app.py`: finds bundles, and ends with one clear line when it cannot start."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import app

ROOT = Path(app.__file__).parent


def _run(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_without_a_bundle_one_line_and_exit_1(tmp_path):
    done = _run(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "There is no bundle yet: make one with `factory run" in done.stderr


def test_a_taken_port_is_named(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert app.main(["--bundle", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 1
    assert "is taken" in capsys.readouterr().err


def test_bundles_are_found_in_both_places(tmp_path):
    for folder in ("adapters/a", "build/run/bundle", "build/other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "manifest.json").write_text("{}")
    found = {path.relative_to(tmp_path).as_posix() for path in app.find_bundles(tmp_path)}
    assert found == {"adapters/a", "build/run/bundle"}
