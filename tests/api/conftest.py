"""Real tiny bundles on one base, and the real server over them with real engines."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from factory import store
from factory.api.models import build_catalog
from factory.api.router import Router
from tests import tiny
from tests.api.served import Serving, make_bundle
from tests.tiny import TINY_ROWS, make_tiny_adapter, make_tiny_base

SYSTEM = "Ask again later, please."
OTHER_ANSWERS = ("No code: 9030.", "Bert and Eve do.", "At 7 bar.", "Red lamp.")
OTHER_ROWS = tuple((question, other) for (question, _), other in zip(TINY_ROWS, OTHER_ANSWERS, strict=True))


@dataclass(frozen=True)
class Made:
    """The folders of a session: a prepared base, its identity, and two bundles on it."""

    base: Path
    sha256: str
    gate: Path
    pump: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Bundle `gate` answers the tiny rows; bundle `pump` answers them otherwise and has a system text."""
    folder = tmp_path_factory.mktemp("served")
    base = make_tiny_base(folder / "base")
    sha256 = store.read_json(base / "base.json")["sha256"]
    adapters = {"gate": make_tiny_adapter(base, folder / "gate-adapter", steps=150)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "TINY_ROWS", OTHER_ROWS)
        adapters["pump"] = make_tiny_adapter(base, folder / "pump-adapter", steps=150)
    systems = {"gate": "", "pump": SYSTEM}
    bundles = [
        make_bundle(folder / "build" / name / "bundle", name, base, adapter, sha256, system=systems[name])
        for name, adapter in adapters.items()
    ]
    prepared = folder / "cache" / "bases" / f"tiny-instruct-{sha256[:12]}"
    prepared.mkdir(parents=True)
    (prepared / "base-Q8_0.gguf").write_bytes((base / "base-F16.gguf").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.CACHE_VARIABLE, str(folder / "cache"))
        yield Made(base, sha256, *bundles)


@pytest.fixture(scope="session")
def catalog(made):
    return build_catalog([made.gate, made.pump], parallel=4, threads=1)


@pytest.fixture(scope="session")
def server(catalog):
    server = Serving(Router(catalog))
    yield server
    server.close()


@pytest.fixture
def client(server):
    with server.openai() as client:
        yield client


@pytest.fixture
def http(server):
    with server.http() as client:
        yield client
