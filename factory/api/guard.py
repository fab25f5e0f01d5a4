"""What stands before every route: whose requests are let in, how large they may be, what headers go out.

A web page elsewhere reaches a server on this machine by DNS rebinding, which a foreign Host header shows, or by plain
cross-site requests, which a foreign Origin shows. Knows no route but which need the key.
"""

import base64
import binascii
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from factory.api.errors import ApiError
from factory.api.keys import is_key

logger = logging.getLogger(__name__)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; connect-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
KEYED = ("/v1", "/metrics")
MAX_BODY_BYTES = 4 << 20
MAX_UPLOAD_BYTES = 220 << 20  # documents for training
MAX_RUNNING = 64
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RefusedError(ApiError):
    """The guard lets a request not through."""

    def __init__(self, status: int, message: str, code: str) -> None:
        """Keep the status."""
        super().__init__(message)
        self.status, self.kind, self.code = status, "invalid_request_error", code


@dataclass(frozen=True)
class Rules:
    """Who is let in.

    `hosts` are the names of this server, without ports. `key` is asked for on the API; `keyed_pages` asks for it on
    every other page too, as the password of HTTP Basic.
    """

    key: str = field(repr=False)
    hosts: frozenset[str] = LOOPBACK
    keyed_pages: bool = False


class Guard:
    """ASGI middleware that refuses what the rules do not let in, before anything is read."""

    def __init__(self, app: App, rules: Rules) -> None:
        """Stand before an application."""
        self._app, self._rules, self._running = app, rules, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            limit = self._check(scope)
        except RefusedError as error:
            await _refuse(error, scope, send)
            return
        self._running += 1
        try:
            await self._app(scope, _Limited(receive, limit).receive, _with_headers(send))
        except RefusedError as error:  # the body was longer than it was said to be
            await _refuse(error, scope, send)
        finally:
            self._running -= 1

    def _check(self, scope: Scope) -> int:
        """Return how many bytes the body may have."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, path = headers.get(b"host", ""), scope["path"]
        if host_name(host) not in self._rules.hosts:
            names = ", ".join(sorted(self._rules.hosts))
            raise RefusedError(
                400, f"Host {host[:80]!r} is not a name of this server: use one of {names}", "host"
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise RefusedError(403, f"Origin {origin[:80]!r} is not this server: open its own page", "origin")
        keyed = path.startswith(KEYED)
        if keyed or (self._rules.keyed_pages and path != "/health"):
            self._check_key(headers, keyed)
        if keyed and self._running >= MAX_RUNNING:
            raise RefusedError(
                429, f"{MAX_RUNNING} requests are being answered: try again in a moment", "busy"
            )
        limit = MAX_BODY_BYTES if keyed else MAX_UPLOAD_BYTES
        length = headers.get(b"content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 18:
            raise RefusedError(400, "Content-Length is not a number of bytes", "length")
        if int(length) > limit:
            raise RefusedError(
                413, f"The body has {length} bytes, at most {limit} are read: send less", "too_large"
            )
        return limit

    def _check_key(self, headers: Mapping[bytes, str], keyed: bool) -> None:
        given = _given_key(headers.get(b"authorization", ""))
        if not is_key(given, self._rules.key):
            how = "send the key as `Authorization: Bearer …`" if keyed else "the password is the API key"
            raise RefusedError(401, f"The key is missing or wrong: {how}", "invalid_api_key")


def host_name(host: str) -> str:
    """Return a Host header without its port; `[::1]` keeps its brackets."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()


def _given_key(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


class _Limited:
    """Passes a body on until it is longer than allowed."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._left = receive, limit

    async def receive(self) -> Any:
        event = await self._receive()
        if event["type"] == "http.request":
            self._left -= len(event.get("body", b""))
            if self._left < 0:
                raise RefusedError(413, "The body is longer than is read here: send less", "too_large")
        return event


def _with_headers(send: Send) -> Send:
    async def wrapped(event: Any) -> None:
        if event["type"] == "http.response.start":
            headers = [pair for pair in event["headers"] if pair[0].lower() not in HEADERS]
            event = event | {"headers": headers + list(HEADERS.items())}
        await send(event)

    return wrapped


async def _refuse(error: RefusedError, scope: Scope, send: Send) -> None:
    logger.info("refused %s: %s", scope["path"][:80].encode("ascii", "replace").decode(), error.code)
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b'Basic realm="Adapter Factory", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
