"""A playground on a free port, and the system's Chromium on it."""

import asyncio
import contextlib
import gc
import shutil
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MOST_PRESSES = 80
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "microsoft-edge")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what the page must not do could not succeed
)


@dataclass(frozen=True)
class Site:
    """A running playground; `queue` is the one of its Train tab, `told` what it sent of events, in order."""

    url: str
    history: object
    root: Path
    queue: object
    told: list[str]


def overheard(app, told):
    """An application whose events to the page are written down."""

    async def listening(scope, receive, send):
        async def sent(event):
            if event["type"] == "http.response.body" and scope["path"].endswith("/queue/data"):
                told.extend(event.get("body", b"").decode().split("\n\n"))
            await send(event)

        await app(scope, receive, sent)

    return listening


@contextlib.contextmanager
def running_site(router, root):
    """A playground over a router, as `factory serve` builds it, with a history of its own."""
    import uvicorn

    from factory.api.guard import Guard, Rules
    from factory.api.routes import build_api
    from factory.history.history import History
    from factory.web import jobs
    from factory.web.pages import mount_pages

    queues, make = [], jobs.JobQueue

    def remembered(*arguments):
        queues.append(make(*arguments))
        return queues[-1]

    history = History(root / "playground.db")
    app = build_api(router)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "JobQueue", remembered)
        mount_pages(app, router, root, history)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = []
    guarded = Guard(overheard(app, told), Rules("key"))
    config = uvicorn.Config(
        guarded, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield Site(f"http://127.0.0.1:{port}", history, root, queues[0], told)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@contextlib.contextmanager
def closed_loops():
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


@contextlib.contextmanager
def running_browser():
    """The system's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(
            f"The playground's tests need a browser, one of {', '.join(BROWSERS)}: apt install chromium"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Watched:
    """What pages of a context asked for and complained about."""

    own: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def watch(self, page):
        """Listen to a page from now on."""
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on("console", self._note)

    def _note(self, line):
        if line.type == "error":
            self.complaints.append(f"{line.text} ({line.location.get('url')})")

    @property
    def foreign(self):
        """The URLs that are not this server's."""
        return [
            url for url in self.requests if not url.startswith((f"{self.own}/", "data:", f"blob:{self.own}"))
        ]


class Stalls:
    """How long a busy machine kept this process from running: a thread notes how late it wakes.

    Server and stubs run in this process. A handler that blocks is no stall: it keeps no other thread from waking.
    """

    TICK_S = 0.01

    def __init__(self):
        self._late, self._over = [], threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _tick(self):
        last = time.monotonic()
        while not self._over.wait(self.TICK_S):
            now = time.monotonic()
            self._late.append((now, now - last - self.TICK_S))
            last = now

    def between(self, start, end):
        """The seconds of a span in which this process could not run."""
        return sum(late for woke, late in self._late if start < woke <= end + self.TICK_S)


def open_playground(page, url):
    """Open the Compare tab and wait until all of it is drawn: gradio draws a page part by part."""
    page.goto(url)
    page.locator("#question").get_by_role("textbox").wait_for()
    for drawn in (page.locator("[role=status]").nth(3), page.locator("[data-group]").first):
        drawn.wait_for(state="attached")


def ask(page, question):
    """Type a question in the Compare tab and press Enter."""
    box = page.locator("#question").get_by_role("textbox")
    box.fill(question)
    box.press("Enter")


def choose(page, pane, model):
    """Choose a pane's model."""
    page.locator(f"#pane-{pane}").get_by_label(model, exact=True).check()


def status(page, pane):
    """A pane's line on how far it is."""
    return page.locator(f"#pane-{pane} .status p")


def answers(page, pane):
    """A pane's answers."""
    return page.locator(
        f"#pane-{pane} .bot-row:not(.bot-row + .bot-row, .bot-row + * + .bot-row) [data-testid=bot]"
    )


def notes(page, pane):
    """What stands below a pane's answers, one for each: who gave it and what was measured."""
    return page.locator(f"#pane-{pane} :is(.bot-row + .bot-row, .bot-row + * + .bot-row) [data-testid=bot]")


def click(page, target):
    """Click and return when the page got the click, on `time.monotonic`'s clock."""
    page.evaluate(
        "addEventListener('click', e => window.clicked = performance.timeOrigin + e.timeStamp, "
        "{capture: true, once: true})"
    )
    target.click()
    return page.evaluate("window.clicked") / 1000 - time.time() + time.monotonic()


def open_tab(page, name):
    """Show a tab."""
    page.get_by_role("tab", name=name, exact=True).click()


def press_until_focused(page, target, key="Tab"):
    """Press a key until a control has the focus, as somebody without a mouse would."""
    for _ in range(MOST_PRESSES):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press(key)
    pytest.fail(f"{target} cannot be reached with {key}")


def unfold(page, title):
    """Open one of the folded parts."""
    page.get_by_role("button", name=title).click()
