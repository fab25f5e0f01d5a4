import asyncio
import logging
import socket
import sys
import threading
from pathlib import Path

import psutil
import pytest

from factory import store
from factory.api.guard import LOOPBACK, Guard
from factory.api.models import EndpointSpec
from factory.errors import FactoryError, UsageError
from factory.web import serve
from factory.web.serve import ServeConfig, build_server, check_port, endpoint_spec, make_rules
from tests.web.browser import closed_loops


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "box.lan", "", "127.0.0.1.evil.example"])
def test_other_machines_are_let_in_only_when_that_is_said(host):
    with pytest.raises(UsageError, match="--allow-remote"):
        make_rules(ServeConfig((), host=host))
    assert make_rules(ServeConfig((), host=host, allow_remote=True)).keyed_pages


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_alone_needs_no_key_for_pages(host):
    rules = make_rules(ServeConfig((), host=host))

    assert not rules.keyed_pages
    assert rules.hosts == LOOPBACK
    assert len(rules.key) >= 43


def test_names_of_this_server_are_those_it_was_told():
    config = ServeConfig((), host="192.168.1.5", allow_remote=True, names=("Box.lan", "fe80::1"))
    assert make_rules(config).hosts == LOOPBACK | {"192.168.1.5", "box.lan", "[fe80::1]"}
    anywhere = ServeConfig((), host="0.0.0.0", allow_remote=True)
    assert make_rules(anywhere).hosts == LOOPBACK
    from_a_container = make_rules(ServeConfig((), names=("host.docker.internal",)))
    assert from_a_container.hosts == LOOPBACK | {"host.docker.internal"}
    assert not from_a_container.keyed_pages


def test_an_endpoint_needs_url_model_and_key_together(monkeypatch):
    monkeypatch.setenv("AFAR_KEY", "x")
    url = "https://afar.example/v1"

    assert endpoint_spec(None, None, "AFAR_KEY", False) is None
    assert endpoint_spec(url, "big", "AFAR_KEY", True) == EndpointSpec("big", url, "big", "AFAR_KEY")
    assert endpoint_spec(url, "big", "", False).key_env == ""
    for wrong in (
        (None, "big", "AFAR_KEY", False),
        (None, None, "AFAR_KEY", True),
        (url, None, "AFAR_KEY", False),
        ("afar.example", "big", "AFAR_KEY", False),
        ("file:///etc/passwd", "big", "", False),
        (url, "big", "NO_SUCH_KEY", False),
    ):
        with pytest.raises(UsageError):
            endpoint_spec(*wrong)


def test_a_taken_port_is_named_before_anything_is_loaded(free_port):
    check_port("127.0.0.1", free_port)
    refused = pytest.raises(UsageError, match=f"Port {free_port} on 127.0.0.1 cannot be opened")
    with socket.create_server(("127.0.0.1", free_port)), refused:
        check_port("127.0.0.1", free_port)


def test_without_gradio_the_api_is_served_alone(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "gradio", None)
    config = ServeConfig(())
    app = build_server(config, make_rules(config))
    paths = {getattr(route, "path", "") for route in app.routes}

    assert "/v1/chat/completions" in paths
    assert "/ui" not in paths
    assert "no playground: The playground needs gradio" in caplog.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_queue_ends_and_the_history_is_closed_with_the_server():
    with closed_loops():
        app = build_server(ServeConfig(()), make_rules(ServeConfig(())))

        async def live():
            async with app.router.lifespan_context(app):
                return opened()

        assert asyncio.run(live()) == ("playground.db", "training-queue")
        assert opened() == ()


def opened():
    """The files of a history and the threads of a queue that this process has."""
    files = {Path(file.path).name for file in psutil.Process().open_files()}
    threads = {thread.name for thread in threading.enumerate()}
    return (*sorted(files & {"playground.db"}), *sorted(threads & {"training-queue"}))


def test_a_server_runs_behind_its_guard_and_says_where(monkeypatch, caplog, free_port):
    started = {}
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.update(app=app, **options))
    monkeypatch.setitem(sys.modules, "gradio", None)
    caplog.set_level(logging.INFO)
    serve.run(ServeConfig((), port=free_port))

    assert isinstance(started["app"], Guard)
    assert (started["host"], started["port"]) == ("127.0.0.1", free_port)
    assert started["proxy_headers"] is False
    assert f"http://127.0.0.1:{free_port}/v1" in caplog.text
    assert "playground  " not in caplog.text
    key = (Path("cache") / "api.key").read_text().strip()
    assert key not in caplog.text


def test_nothing_is_started_for_a_bundle_that_is_none(free_port):
    with pytest.raises(FactoryError, match="nothing is not a bundle"):
        serve.run(ServeConfig((Path("nothing"),), port=free_port))


def test_a_damaged_bundle_that_nobody_named_is_left_out(tmp_path, caplog, monkeypatch):
    (tmp_path / "build/old/bundle").mkdir(parents=True)
    (tmp_path / "build/old/bundle/manifest.json").write_text("{")
    monkeypatch.setattr(serve, "mount_pages", lambda *_: None)
    with caplog.at_level(logging.WARNING):
        app = build_server(ServeConfig(()), make_rules(ServeConfig(())))
    assert "build/old/bundle is not served" in caplog.text
    assert any(getattr(route, "path", "") == "/v1/models" for route in app.routes)
