"""The playground: which file answers, and that the page reaches for nothing outside this machine."""

import asyncio
import gc
import re
import socket
import threading
import time
from typing import ClassVar

import httpx
import pytest

from factory.bundle.manifest import list_files, write_manifest
from factory.errors import ExportError, UsageError
from factory.web.engine import Engine
from factory.web.engine import list_files as list_models
from factory.web.ui import _make_handler, build_ui, load_gradio
from tests.bundle.manifests import make_manifest

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _closed_loops():
    """Close the event loops that gradio opens for its locks and leaves behind, else a later test is blamed."""
    opened, new_event_loop = [], asyncio.new_event_loop

    def remembered():
        opened.append(new_event_loop())
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", remembered)
        yield
    asyncio.set_event_loop(None)
    for loop in opened:
        loop.close()
    gc.collect()


class FakeAnswerer:
    """Repeats the question word by word."""

    opened: ClassVar = []

    def __init__(self, file):
        self.file, self.closed = file, False
        FakeAnswerer.opened.append(self)

    def stream(self, messages):
        text = ""
        for word in messages[-1].content.split():
            text = f"{text} {word}".strip()
            yield f"{len(messages)}: {text}"

    def close(self):
        self.closed = True


def write_bundle(folder, name="tolvane"):
    """Write a bundle whose model files are no models."""
    folder.mkdir(parents=True)
    for file in ("model-Q8_0.gguf", "model-Q4_K_M.gguf", "adapter.gguf", "Modelfile"):
        (folder / file).write_text(f"{name} {file}")
    write_manifest(folder, make_manifest(name=name, system="Be brief.", files=list_files(folder)))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("build") / "run/bundle")


@pytest.fixture(scope="module")
def address(bundle):
    """The playground on a free port, with an answerer that needs no model."""
    import uvicorn

    from factory.web.guard import build_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = build_app(build_ui([bundle], Engine(FakeAnswerer)))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def test_the_page_names_no_foreign_address(address):
    reply = httpx.get(address, headers={"accept-encoding": "gzip, br"})
    assert reply.status_code == 200
    assert "Adapter Factory playground" in reply.text
    assert {url for url in re.findall(r"https?://[^\s\"'<>\\)]+", reply.text)} == {address}
    styles = re.findall(r'href="(\./[^"]+\.css[^"]*)"', reply.text)
    for path in [*styles, "theme.css"]:
        style = httpx.get(f"{address}/{path.removeprefix('./')}")
        assert style.status_code == 200
        assert not re.search(r"@import|url\([\"']?https?:|//fonts", style.text), path


def test_the_page_keeps_no_history_sends_no_analytics_and_has_a_policy(address):
    reply = httpx.get(address)
    assert "connect-src 'self'" in reply.headers["content-security-policy"]
    config = httpx.get(f"{address}/config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert not config["footer_links"]
    assert httpx.get(f"{address}/gradio_api/runs").status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 400),
        ("127.0.0.1.evil.example:80", 400),
        ("localhost", 200),
        ("localhost:1234", 200),
        ("[::1]:7", 200),
    ],
)
def test_only_names_of_this_machine_are_answered(address, host, status):
    assert httpx.get(address, headers={"host": host}).status_code == status


def test_files_of_this_machine_cannot_be_fetched(address, bundle):
    for path in ("/etc/passwd", str(bundle / "Modelfile")):
        assert httpx.get(f"{address}/gradio_api/file={path}").status_code in {403, 404}


def test_models_are_listed_default_first_and_named_apart(tmp_path):
    files = list_models([write_bundle(tmp_path / "a/bundle"), write_bundle(tmp_path / "b/bundle")])
    assert list(files) == [
        "tolvane: Q8_0",
        "tolvane: Q4_K_M",
        "tolvane: Q8_0 (b/bundle)",
        "tolvane: Q4_K_M (b/bundle)",
    ]
    assert files["tolvane: Q8_0"].identity.startswith(
        f"model-Q8_0.gguf · sha256 {files['tolvane: Q8_0'].sha256[:12]}"
    )


def test_answers_stream_and_say_which_file_gave_them(bundle):
    files = list_models([bundle])
    FakeAnswerer.opened.clear()
    answer = _make_handler(load_gradio(), files, Engine(FakeAnswerer))
    steps = list(answer("tolvane: Q8_0", " who keeps it? ", [], False))
    assert [step[1][-1]["content"] for step in steps] == [
        "who keeps it?",
        "2: who",
        "2: who keeps",
        "2: who keeps it?",
        "2: who keeps it?",
    ]
    assert steps[-1][3].startswith(
        f"Answered by model-Q8_0.gguf · sha256 {files['tolvane: Q8_0'].sha256[:12]}"
    )
    history = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
    ]
    assert list(answer("tolvane: Q8_0", "c", history, True))[-1][1][-1]["content"] == "4: c"
    assert len(FakeAnswerer.opened) == 1
    list(answer("tolvane: Q4_K_M", "c", history, False))
    assert [opened.closed for opened in FakeAnswerer.opened] == [True, False]


@pytest.mark.parametrize(
    ("label", "question"), [("/etc/passwd", "hi"), ("tolvane: Q8_0", "  "), ("tolvane: Q8_0", None)]
)
def test_a_foreign_model_or_an_empty_question_is_refused(bundle, label, question):
    gr = load_gradio()
    answer = _make_handler(gr, list_models([bundle]), Engine(FakeAnswerer))
    with pytest.raises(gr.Error, match="Choose a model"):
        list(answer(label, question, [], False))


def test_no_bundle_and_a_damaged_one_are_errors(tmp_path):
    with pytest.raises(UsageError, match="no bundle"):
        build_ui([])
    with pytest.raises(ExportError, match="not a bundle"):
        build_ui([tmp_path])
