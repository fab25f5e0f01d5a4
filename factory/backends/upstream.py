"""One OpenAI-compatible server over HTTP, asked without blocking: whole answers and streams. Knows no model.

An engine on this machine and an endpoint elsewhere look the same from here. Leaving a stream early closes its
connection, at which the server stops generating.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import aiohttp

from factory.errors import BackendError

TIMEOUT = aiohttp.ClientTimeout(total=None, connect=60.0, sock_connect=5.0, sock_read=120.0)
MAX_CONNECTIONS = 128
MAX_ERROR_CHARACTERS = 400


class AnsweredError(BackendError):
    """The server answered with an error: `status` and `code` are its own."""

    def __init__(self, status: int, message: str, code: str) -> None:
        """Keep what the server said."""
        super().__init__(message)
        self.status, self.code = status, code


class LostError(BackendError):
    """The server could not be reached, or was gone before it had answered."""


def open_client() -> aiohttp.ClientSession:
    """Return a client for any number of servers, to be opened in an event loop; it asks no proxy of the environment."""
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
    return aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=aiohttp.DummyCookieJar())


async def post(
    client: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any], *, once: bool = False
) -> dict[str, Any]:
    """Return a server's whole answer; with `once` the connection is not used again.

    llama.cpp closes a connection after some seconds or requests, just when the next one may be on its way.

    Raises:
        AnsweredError: it answered with an error.
        LostError: it could not be reached, or broke off.
    """
    try:
        async with _ask(client, url, key, body, once) as response:
            status, text = response.status, (await response.read()).decode("utf-8", "replace")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _lost(error) from error
    if status >= 400:
        raise _answered(status, text)
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise LostError("the server's answer is not JSON") from error
    if not isinstance(answer, dict):
        raise LostError("the server's answer is not a JSON object")
    return answer


async def stream(
    client: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any], *, once: bool = False
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield a server's chunks as they come; the end of the iteration is the end of the answer.

    Raises:
        AnsweredError: it answered with an error, at once or in the middle.
        LostError: it could not be reached, or broke off before it said that it was done.
    """
    try:
        async with _ask(client, url, key, body, once) as response:
            if response.status >= 400:
                raise _answered(response.status, (await response.read()).decode("utf-8", "replace"))
            if response.content_type != "text/event-stream":
                raise LostError(f"the server's answer is {response.content_type}, not a stream of events")
            async with aclosing(_events(response.content)) as events:
                async for data in events:
                    if data == "[DONE]":
                        return
                    yield _chunk(data)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _lost(error) from error
    raise LostError("the stream ended before its end mark")


def _ask(
    client: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any], once: bool
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    headers |= {"Connection": "close"} if once else {}
    return client.post(url, data=json.dumps(body).encode(), headers=headers, allow_redirects=False)


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[str, None]:
    """Yield the data of server-sent events: lines that begin with `data:`, up to an empty one."""
    rest, data = b"", list[str]()
    async for piece in content.iter_any():
        *lines, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            if name == "data":
                data.append(value.removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data.clear()


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise LostError("the stream holds a line that is not JSON") from error
    if not isinstance(chunk, dict):
        raise LostError("the stream holds a line that is not a JSON object")
    if "error" in chunk:
        raise _answered(int(_field(chunk["error"], "code", 500)), json.dumps(chunk))
    return chunk


def _field(value: Any, name: str, default: int) -> int:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, int) else default


def _answered(status: int, text: str) -> AnsweredError:
    code, message = "upstream_error", text
    try:
        error = json.loads(text)["error"]
        message = error if isinstance(error, str) else str(error.get("message", text))
        code = str(error.get("type") or code) if isinstance(error, dict) else code
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return AnsweredError(status, message.strip()[:MAX_ERROR_CHARACTERS] or f"status {status}", code)


def _lost(error: Exception) -> LostError:
    return LostError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
