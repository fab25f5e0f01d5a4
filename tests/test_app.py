"""`python app.py` is `factory serve`: it serves the bundles it finds, and says in one line when it cannot start."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
from typer.main import get_command

from factory import cli, store
from tests.api.served import make_bundle
from tests.tiny import make_tiny_adapter, make_tiny_base

ROOT = Path(__file__).parent.parent


def _command(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ADAPTER_FACTORY_CACHE": str(folder / "cache")}
    return [sys.executable, str(ROOT / "app.py"), *arguments], {"cwd": folder, "env": environment}


def _run(folder, *arguments):
    command, where = _command(folder, *arguments)
    return subprocess.run(command, **where, capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def _started(folder, *arguments):
    """Run it on a free port until the end of the block; yield a client that has the key."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command, where = _command(folder, *arguments, "--port", str(port))
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(command, **where, stdout=said, stderr=said) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):
        try:
            while not _answers(client):
                assert process.poll() is None, (folder / "said").read_text()
                time.sleep(0.1)
            client.headers["Authorization"] = f"Bearer {(folder / 'cache' / 'api.key').read_text().strip()}"
            yield client
        finally:
            process.terminate()


def _answers(client):
    try:
        return client.get("/health").status_code == 200
    except httpx.ConnectError:
        return False


def _make_project(tmp_path):
    """Make a bundle in adapters/ and one in build/, and an adapter that is in no bundle."""
    base = make_tiny_base(tmp_path / "base")
    adapter = make_tiny_adapter(base, tmp_path / "adapters" / "alone")
    sha256 = store.read_json(base / "base.json")["sha256"]
    make_bundle(tmp_path / "adapters" / "kept", "kept", base, adapter, sha256)
    shutil.rmtree(tmp_path / "adapters" / "merged")
    make_bundle(tmp_path / "build" / "made" / "bundle", "made", base, adapter, sha256)


def test_it_serves_the_bundles_that_it_finds(tmp_path):
    _make_project(tmp_path)
    with _started(tmp_path) as client:
        assert client.get("/health").json()["status"] == "ok"
        served = {card["id"] for card in client.get("/v1/models").json()["data"]}
        page = client.get("/ui/")

    assert {name for name in served if ":" in name} == {"kept:Q8_0", "made:Q8_0"}
    assert not any(name.startswith("alone") for name in served)  # adapters/README.md says so
    assert page.status_code == 200


def test_the_options_that_it_promises_exist():
    said = (ROOT / "app.py").read_text(encoding="utf-8").split('"""')[1]
    promised = set(re.findall(r"--[a-z-]+", said))
    known = {name for option in get_command(cli.app).commands["serve"].params for name in option.opts}
    assert promised
    assert promised <= known


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
