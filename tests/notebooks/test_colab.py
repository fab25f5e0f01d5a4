"""What the notebooks do on Colab, of which a part is imitated: a Drive that outlives sessions, uploads, the tunnel."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

from factory.api.guard import POLICY, Guard, Rules
from factory.web.serve import ServeConfig, make_rules

ROOT = Path(__file__).parent.parent.parent
TUNNEL = "8080-gpu-t4-s-abc123-c.us-west4-1.prod.colab.dev"


class Colab:
    """A Colab whose /content is a folder here. `mounted` and `uploads` say what a notebook asked for."""

    def __init__(self, folder: Path) -> None:
        self.content, self.mounted, self.uploads = folder / "content", [], []

    def start_session(self) -> None:
        """Give a new computer, with a fresh clone and without what was not on Drive."""
        drive = self.content / "drive"
        for path in self.content.glob("*"):
            if path != drive:
                shutil.rmtree(path)
        for name in ("recipes", "data/quickstart/people"):
            shutil.copytree(ROOT / name, self.content / "adapter-factory" / name)
        self.mounted.clear()
        self.uploads.clear()

    def modules(self) -> dict[str, ModuleType]:
        """Return `google.colab` as notebooks import it."""
        colab = ModuleType("google.colab")
        colab.drive = SimpleNamespace(mount=self._mount)
        colab.files = SimpleNamespace(upload=self._upload)
        colab.output = SimpleNamespace(eval_js=lambda script: f"https://{TUNNEL}/")
        return {"google": ModuleType("google"), "google.colab": colab}

    def _mount(self, place: str) -> None:
        self.mounted.append(place)
        Path(place, "MyDrive").mkdir(parents=True, exist_ok=True)

    def _upload(self) -> dict[str, bytes]:
        self.uploads.append("leave.md")
        return {"leave.md": b"Leave: 28 days\n"}

    def run(self, name: str, *cells: str, **fields: object) -> dict[str, object]:
        """Run cells of a notebook, fields of the forms set as given, and return their names."""
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        sources = {cell.id: cell.source for cell in notebook.cells}
        names: dict[str, object] = {"os": __import__("os"), "subprocess": FakeSubprocess(), "sys": sys}
        names |= {"Path": Path, "ON_COLAB": True}
        for cell in cells:
            source = sources[cell].replace('"/content', f'"{self.content}')
            lines = source.split("\n")
            for number, line in enumerate(lines):
                field = line.partition(" = ")[0]
                if "# @param" in line and field in fields:
                    lines[number] = f"{field} = {fields[field]!r}"
            exec(compile("\n".join(lines), f"{name}: {cell}", "exec"), names)
        return names


class FakeSubprocess:
    """Keeps the commands that were started; each ends well at once."""

    PIPE = STDOUT = None
    TimeoutExpired = RuntimeError

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def Popen(self, command: list[str], **options: object) -> SimpleNamespace:
        self.commands.append(command)
        nothing = lambda *arguments: None  # noqa: E731
        return SimpleNamespace(
            stdout=[], wait=nothing, returncode=0, terminate=nothing, kill=nothing, poll=nothing
        )


@pytest.fixture
def colab(tmp_path, monkeypatch) -> Colab:
    colab = Colab(tmp_path)
    for name, module in colab.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    colab.content.mkdir()
    colab.start_session()
    return colab


def test_a_session_with_drive_keeps_uploads_and_results_there_and_the_next_finds_them(colab):
    kept = colab.content / "drive" / "MyDrive" / "adapter-factory"
    cells = ("set-up", "choose", "recipe", "run")
    first = colab.run("02_your_documents", *cells, use_drive=True)
    assert colab.mounted == [str(colab.content / "drive")]
    assert colab.uploads == ["leave.md"]
    assert (kept / "documents" / "leave.md").is_file()
    out = kept / "build" / "mine"
    assert first["subprocess"].commands[-1][-2:] == ["--out", str(out)]
    asked = (out.parent / "mine.yaml").read_text()
    assert json.loads(asked)["ingest"]["source"] == str(kept / "documents")
    (out / "bundle").mkdir(parents=True)
    (out / "bundle" / "manifest.json").write_text('{"name": "mine", "files": []}')

    colab.start_session()
    again = colab.run("02_your_documents", *cells, use_drive=True)
    assert colab.mounted
    assert colab.uploads == []
    assert again["subprocess"].commands == first["subprocess"].commands
    assert (out.parent / "mine.yaml").read_text() == asked
    assert colab.run("05_playground", "set-up", "bundle", use_drive=True)["BUNDLE"] == out / "bundle"


def test_a_session_without_drive_leaves_drive_alone(colab):
    here = colab.content / "adapter-factory"
    said = colab.run("02_your_documents", "set-up", "choose", "recipe")
    assert colab.mounted == []
    assert said["RUNS"] == here / "build"
    assert (here / "documents" / "leave.md").is_file()


def test_documents_are_found_on_drive_first_and_then_in_the_repository(colab):
    locate = colab.run("03_bigger_base_on_a_T4", "set-up", use_drive=True)["locate"]
    assert locate("data/quickstart") == colab.content / "adapter-factory" / "data" / "quickstart"
    (colab.content / "drive" / "MyDrive" / "adapter-factory" / "mine").mkdir()
    assert locate("mine") == colab.content / "drive" / "MyDrive" / "adapter-factory" / "mine"
    assert locate("new") == colab.content / "drive" / "MyDrive" / "adapter-factory" / "new"
    assert locate(str(colab.content)) == colab.content


@pytest.fixture
def served(colab, monkeypatch):
    """What the cells of the playground's notebook leave, and what they displayed."""
    monkeypatch.setattr("urllib.request.urlopen", Healthy)
    monkeypatch.setattr("atexit.register", lambda stop: None)
    shown: list[str] = []
    monkeypatch.setattr("IPython.display.display", lambda page: shown.append(page.data))
    bundle = colab.content / "adapter-factory" / "build" / "mine" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text('{"name": "mine", "files": []}')
    names = colab.run("05_playground", "set-up", "bundle", "serve", "playground", port=8080)
    return names["subprocess"].commands[-1], "".join(shown)


class Healthy:
    """An answer of a server that is well."""

    status = 200

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __enter__(self) -> "Healthy":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_the_playground_opens_in_a_tab_since_nothing_may_frame_it(served):
    assert "frame-ancestors 'self'" in POLICY  # which a frame in a notebook is not
    _, shown = served
    assert f'href="https://{TUNNEL}/ui/" target="_blank"' in shown
    assert "<iframe" not in shown


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (TUNNEL, f"https://{TUNNEL}", 200),
        (f"{TUNNEL}:443", f"https://{TUNNEL}:443", 200),
        ("localhost:8080", None, 200),
        (
            "127.0.0.1:8080",
            f"https://{TUNNEL}",
            403,
        ),  # a tunnel that rewrites Host alone: the notebook says so
        (TUNNEL, "https://colab.research.google.com", 403),
        ("8080-other.prod.colab.dev", "https://8080-other.prod.colab.dev", 400),
    ],
)
def test_the_server_answers_to_the_tunnels_name(served, host, origin, status, monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTER_FACTORY_CACHE", str(tmp_path / "cache"))
    command, _ = served
    assert "--allow-remote" not in command
    name = command[command.index("--name") + 1]
    assert asked(make_rules(ServeConfig((), names=(name,))), host, origin) == status


def asked(rules: Rules, host: str, origin: str | None) -> int:
    """Return the status of a page that is asked for under a name."""
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    told: list[dict] = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(event):
        told.append(event)

    scope = {"type": "http", "path": "/ui/", "headers": headers}
    asyncio.run(Guard(app, rules)(scope, None, send))
    return told[0]["status"]
