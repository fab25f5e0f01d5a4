"""What stands between the browser and Gradio: only this machine's names, no foreign address, a strict content policy.

Gradio itself answers any Host header, which lets a web page reach it by DNS rebinding.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from factory.web.ui import CSS, load_gradio

if TYPE_CHECKING:
    import fastapi
    import gradio as gr

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
SHARING_TAG = re.compile(
    rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*|<link[^>]+href="https?://[^>]*>\s*'
)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_app(page: "gr.Blocks") -> "fastapi.FastAPI":
    """Return the web application that serves a page on this machine alone; it opens no port."""
    gr = load_gradio()
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=mono)
    options = {
        "allowed_paths": [],
        "max_file_size": "1mb",
        "run_history": False,
        "footer_links": [],
        "pwa": False,
    }
    return gr.mount_gradio_app(app, page, path="/", theme=theme, css=CSS, server_name="127.0.0.1", **options)


class Guard:
    """ASGI middleware: refuses foreign Host headers, adds the policy, cuts foreign addresses out of the page."""

    def __init__(self, app: App) -> None:
        """Stand before an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not _is_local(headers.get(b"host", b"").decode("latin-1")):
            await _refuse(scope, send)
            return
        # The page is rewritten below, so it must not come compressed.
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
        await self._app(scope, receive, _Rewriter(send).send)


class _Rewriter:
    """Passes a response on; a page of HTML is held back until it is whole and then cleaned."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: dict[str, Any] | None = None
        self._body = b""

    async def send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            headers = [pair for pair in event["headers"] if pair[0].lower() not in HEADERS]
            event = event | {"headers": headers + list(HEADERS.items())}
            if dict(headers).get(b"content-type", b"").startswith(b"text/html"):
                self._start = event
                return
        elif self._start is not None and event["type"] == "http.response.body":
            self._body += event.get("body", b"")
            if event.get("more_body"):
                return
            event = {"type": event["type"], "body": SHARING_TAG.sub(b"", self._body)}
            headers = [pair for pair in self._start["headers"] if pair[0].lower() != b"content-length"]
            headers.append((b"content-length", str(len(event["body"])).encode()))
            await self._send(self._start | {"headers": headers})
            self._start = None
        await self._send(event)


def _is_local(host: str) -> bool:
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host) in HOSTS


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = b"Open this page as http://127.0.0.1 on the machine that serves it.\n"
    head = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": head})
    await send({"type": "http.response.body", "body": body})
