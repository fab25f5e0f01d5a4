"""The notebooks run from top to bottom on a CPU, in a copy of what they need: small, and one after another.

The first makes the bundle that the last two use; the one for a GPU is not run here.
"""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.bundle import ollama_stub

ROOT = Path(__file__).parent.parent.parent
CELL_SECONDS = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("default"),  # the client's own, of sockets and event loops
]


def run(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Run a notebook with the smoke settings and return what each cell printed, by its id."""
    monkeypatch.setenv("ADAPTER_FACTORY_SMOKE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(place / "notebooks" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(place / "notebooks")}}
    NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=resources).execute()
    return {
        cell.id: "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def assert_zipped(said: str) -> None:
    (path, size) = re.search(
        r"^(/.*\.zip): ([\d.]+) MB, adapter in bundle/adapter$", said, re.MULTILINE
    ).groups()
    assert Path(path).stat().st_size == pytest.approx(float(size) * 1e6, abs=1e5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("notebooks", "recipes", "data/quickstart", "data/questions"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def quickstart(place: Path) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run("01_quickstart", place, monkeypatch)


def test_the_quickstart_ends_with_scores_an_answer_and_an_archive(quickstart, place):
    assert "bundle" in quickstart["run"]
    assert re.search(r"^adapter +closed_book +unseen_phrasing +\d", quickstart["scores"], re.MULTILINE)
    assert re.search(r"^model-Q8_0.gguf +closed_book", quickstart["scores"], re.MULTILINE)
    assert "rows, three of them" in quickstart["rows"]
    assert quickstart["ask"].strip()
    assert (place / "build" / "quickstart" / "bundle" / "manifest.json").is_file()
    assert_zipped(quickstart["download"])


def test_a_run_of_ones_own_documents_says_what_was_left_out_and_learned(place, monkeypatch):
    said = run("02_your_documents", place, monkeypatch)
    assert "sample documents are in it now" in said["choose"]
    assert '"name": "mine"' in said["recipe"]
    assert re.search(r"read \d documents, not read 0", said["what-was-read"])
    assert re.search(r"^adapter +closed_book", said["scores"], re.MULTILINE)
    question, answer, *_ = said["ask"].strip().splitlines()
    asked = (place / "build" / "mine" / "dataset" / "test.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(asked)["question"] == question
    assert answer
    assert_zipped(said["download"])


class _AnsweringOllama(ollama_stub._Handler):
    """The stub, which also says its version and answers as the model that it was given."""

    def do_GET(self) -> None:
        self._say({"version": "0.0"})

    def do_POST(self) -> None:
        if self.path != "/api/generate":
            super().do_POST()
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._say({"response": f"{asked['model']} heard: {asked['prompt']}"})

    def _say(self, row: dict[str, str]) -> None:
        body = json.dumps(row).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_running_ollama_gets_the_model_and_is_asked(quickstart, place, monkeypatch):
    ollama, stop = ollama_stub.start_stub()
    ollama.RequestHandlerClass = _AnsweringOllama
    monkeypatch.setenv("OLLAMA_HOST", ollama.url.removeprefix("http://"))
    try:
        said = run("04_export_to_ollama", place, monkeypatch)
    finally:
        stop()
    (name,) = ollama.models
    assert name.partition(":")[0] in {"quickstart", "mine"}  # the newest, whichever test ran last
    assert re.search(r"^(quickstart|mine) heard: How many days of annual leave", said["ollama"], re.MULTILINE)
    assert len(ollama.blobs) == 1


def test_without_ollama_the_export_shows_the_commands(quickstart, place, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # nothing answers there, whatever runs on this machine
    said = run("04_export_to_ollama", place, monkeypatch)
    assert "all files are as they were checked" in said["checksums"]
    bundles = place.glob("build/*/bundle/manifest.json")
    newest = max(
        bundles, key=lambda path: path.stat().st_mtime
    )  # after few steps, a file may not pass all gates
    assert f"FROM ./{json.loads(newest.read_text())['default_file']}" in said["modelfile"]
    assert "ollama create" in said["ollama"]
    assert "no Ollama answers" in said["ollama"]
    assert_zipped(said["download"])


def test_the_playground_answers_through_the_api_and_stops(quickstart, place, monkeypatch):
    said = run("05_playground", place, monkeypatch)
    assert re.search(r"the playground is at http://127\.0\.0\.1:\d+/ui", said["serve"])
    assert re.search(r"^\S+: \S", said["api"], re.MULTILINE)
    assert "the server has stopped" in said["stop"]
