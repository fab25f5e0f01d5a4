"""Cuts foreign addresses out of the playground's HTML: gradio links to its own site and to a font server."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SHARING_TAG = re.compile(
    rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*|<link[^>]+href="https?://[^>]*>\s*'
    rb'|https://github\.com/gradio-app/gradio/raw/[^"\\\s]*'  # a sample file named in the page's configuration
)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class CleanPages:
    """ASGI middleware for the pages below a path; everything else passes untouched."""

    def __init__(self, app: App, path: str) -> None:
        """Stand before an application."""
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http" and scope["path"].startswith(self._path):
            # The page is rewritten, so it must not come compressed.
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            send = _Rewriter(send).send
        await self._app(scope, receive, send)


class _Rewriter:
    """Passes a response on; a page of HTML is held back until it is whole and then cleaned."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: dict[str, Any] | None = None
        self._body = b""

    async def send(self, event: Any) -> None:
        if event["type"] == "http.response.start":
            if dict(event["headers"]).get(b"content-type", b"").startswith(b"text/html"):
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
