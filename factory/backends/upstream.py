"""One OpenAI-compatible server over HTTP, asked without blocking: whole answers and streams. Knows no model.

An engine on this machine and an endpoint elsewhere look the same from here. Leaving a stream early closes its
connection, at which the server stops generating.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import httpx_sse

from factory.errors import BackendError

TIMEOUT = httpx.Timeout(connect=5.0, read=120.0, write=30.0, pool=60.0)
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


def open_client() -> httpx.AsyncClient:
    """Return a client for any number of servers; environment proxies are not asked for loopback's sake."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=32)
    return httpx.AsyncClient(timeout=TIMEOUT, limits=limits, trust_env=False, follow_redirects=False)


async def post(
    client: httpx.AsyncClient, url: str, key: str, body: dict[str, Any], *, once: bool = False
) -> dict[str, Any]:
    """Return a server's whole answer; with `once` the connection is not used again.

    llama.cpp closes a connection after some seconds or requests, just when the next one may be on its way.

    Raises:
        AnsweredError: it answered with an error.
        LostError: it could not be reached, or broke off.
    """
    try:
        response = await client.post(url, json=body, headers=_headers(key, once))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _lost(error) from error
    if response.status_code >= 400:
        raise _answered(response.status_code, response.text)
    try:
        answer = response.json()
    except ValueError as error:
        raise LostError("the server's answer is not JSON") from error
    if not isinstance(answer, dict):
        raise LostError("the server's answer is not a JSON object")
    return answer


async def stream(
    client: httpx.AsyncClient, url: str, key: str, body: dict[str, Any], *, once: bool = False
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield a server's chunks as they come; the end of the iteration is the end of the answer.

    Raises:
        AnsweredError: it answered with an error, at once or in the middle.
        LostError: it could not be reached, or broke off before it said that it was done.
    """
    try:
        async with client.stream("POST", url, json=body, headers=_headers(key, once)) as response:
            if response.status_code >= 400:
                raise _answered(response.status_code, (await response.aread()).decode("utf-8", "replace"))
            async with aclosing(httpx_sse.EventSource(response).aiter_sse()) as events:
                async for event in events:
                    if event.data == "[DONE]":
                        return
                    yield _chunk(event.data)
    except (httpx.HTTPError, httpx.InvalidURL, httpx_sse.SSEError) as error:
        raise _lost(error) from error
    raise LostError("the stream ended before its end mark")


def _headers(key: str, once: bool) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return headers | ({"Connection": "close"} if once else {})


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
