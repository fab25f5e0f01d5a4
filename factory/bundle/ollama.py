"""Pushes one file of a bundle to a running Ollama over its HTTP API. Knows no command line and no page.

API: github.com/ollama/ollama/blob/main/docs/api.md.
"""

import ipaddress
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from factory import store
from factory.bundle.gguf_template import read_turn_template
from factory.bundle.manifest import BundleFile, Manifest, read_manifest
from factory.bundle.modelfile import check_model_name, ollama_settings
from factory.errors import BackendError, ExportError, UsageError

HOST = "http://127.0.0.1:11434"  # where Ollama listens unless it is told otherwise
BLOCK_BYTES = 1 << 20
POLL_S = 0.1
TIMEOUT = httpx.Timeout(120, connect=5)


@dataclass(frozen=True)
class PushProgress:
    """One step of a push: its name, and how many of `total` bytes are done where bytes are counted."""

    status: str
    done: int = 0
    total: int = 0


def model_files(contents: Manifest) -> tuple[BundleFile, ...]:
    """Return the files of a bundle that are whole models, the default one first."""
    found = (
        file
        for file in contents.files
        if re.fullmatch(r"[\w.-]+\.gguf", file.path, re.ASCII) and file.path != "adapter.gguf"
    )
    return tuple(sorted(found, key=lambda file: (file.path != contents.default_file, file.path)))


def check_host(host: str, *, allow_remote: bool = False) -> str:
    """Return the address to send to, without a slash at its end.

    Raises:
        UsageError: it is no http(s) address, or it is another machine and `allow_remote` is not set.
    """
    try:
        url = httpx.URL(host)
    except httpx.InvalidURL as error:
        raise UsageError(f"{host!r} is not an address ({error}): write it like {HOST}") from error
    usable = url.scheme in {"http", "https"} and url.host and (url.port or 0) < 1 << 16
    if not usable or url.userinfo or url.query or url.fragment:
        raise UsageError(f"{host!r} is not an http or https address of a server: write it like {HOST}")
    if not _is_loopback(url.host) and not allow_remote:
        raise UsageError(
            f"{host!r} is not this machine, and the model holds what your documents say: if it may leave, say so "
            "with --allow-remote"
        )
    return str(url).rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def push(
    bundle: Path,
    name: str,
    *,
    file: str | None = None,
    host: str = HOST,
    allow_remote: bool = False,
    client: httpx.Client | None = None,
) -> Iterator[PushProgress]:
    """Return the steps of giving one file of a bundle, else its default one, to Ollama under a name.

    Arguments are checked at once; the rest happens as the steps are iterated, and closing the iterator stops it.
    Proxies of the environment are not used and redirects not followed.

    Raises:
        UsageError: the name, the host or the file cannot be used.
        ExportError: the bundle is damaged.
        BackendError: Ollama does not run, refuses, or breaks off.
    """
    contents = read_manifest(bundle)
    check_model_name(name)
    address = check_host(host, allow_remote=allow_remote)
    files = {known.path: known for known in model_files(contents)}
    chosen = files.get(file or contents.default_file)
    if chosen is None:
        raise UsageError(
            f"{bundle} holds no model file {file or contents.default_file!r}: name one of {', '.join(files) or 'none'}"
        )
    return _push(bundle / chosen.path, contents, chosen, name, address, client)


def _push(
    path: Path, contents: Manifest, chosen: BundleFile, name: str, address: str, client: httpx.Client | None
) -> Iterator[PushProgress]:
    yield PushProgress(f"checking {chosen.path}")
    _check_bytes(path, chosen)
    body = _create_request(path, contents, chosen, name)
    blob = f"{address}/api/blobs/sha256:{chosen.sha256}"
    opened = nullcontext(client) if client else httpx.Client(timeout=TIMEOUT, trust_env=False)
    with opened as http, _told_apart(address):
        found = http.head(blob, follow_redirects=False)
        if found.status_code == httpx.codes.NOT_FOUND:
            yield from _send(http, blob, path, chosen.bytes)
        else:
            _check_answer(found)
            yield PushProgress("Ollama has the file already", chosen.bytes, chosen.bytes)
        yield from _create(http, f"{address}/api/create", body)


def _check_bytes(path: Path, chosen: BundleFile) -> None:
    digest = store.hash_file(path) if path.is_file() else "missing"
    if digest != chosen.sha256:
        raise ExportError(
            f"{path} is not the file that was exported: its SHA-256 is {digest[:12]}, not {chosen.sha256[:12]}; "
            "export the bundle again"
        )


def _create_request(path: Path, contents: Manifest, chosen: BundleFile, name: str) -> dict[str, Any]:
    settings = ollama_settings(contents, read_turn_template(path))
    return {
        "model": name,
        "files": {chosen.path: f"sha256:{chosen.sha256}"},
        "template": settings.template,
        "system": settings.system,
        "parameters": settings.parameters,
        "license": settings.licence,
        "stream": True,
    }


@contextmanager
def _told_apart(address: str) -> Iterator[None]:
    """Turn what can go wrong on the way into one line each."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise BackendError(
            f"Ollama does not answer at {address} ({error}): start it with `ollama serve`, or name its address with "
            "--host"
        ) from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise BackendError(
            f"The connection to Ollama at {address} broke ({error or type(error).__name__}): push again"
        ) from error


def _send(http: httpx.Client, url: str, path: Path, size: int) -> Iterator[PushProgress]:
    """Send a file from the disk in a thread and yield how far it is; the server checks the digest."""
    sent, stop = 0, threading.Event()

    def blocks() -> Iterator[bytes]:
        nonlocal sent
        with path.open("rb") as file:
            while not stop.is_set() and (block := file.read(min(BLOCK_BYTES, size - sent))):
                yield block
                sent += len(block)
        if sent < size:  # or the push was stopped, and nobody reads this
            raise ExportError(f"{path} became shorter while it was sent: export the bundle again")

    headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, url, content=blocks(), headers=headers, follow_redirects=False)
        try:
            while not wait((answer,), POLL_S).done:
                yield PushProgress("sending", sent, size)
        finally:
            stop.set()
    _check_answer(answer.result())
    yield PushProgress("sending", size, size)


def _create(http: httpx.Client, url: str, body: dict[str, Any]) -> Iterator[PushProgress]:
    status = ""
    with http.stream("POST", url, json=body, follow_redirects=False) as response:
        _check_answer(response)
        for line in response.iter_lines():
            if line.strip():
                row = _read_row(line, url)
                status = _shown(row.get("status", ""))
                yield PushProgress(status, _count(row.get("completed")), _count(row.get("total")))
    if status != "success":
        raise BackendError(
            f"Ollama stopped before the model was made, at {status!r}: look at its log and push again"
        )


def _read_row(line: str, url: str) -> dict[str, Any]:
    """Return a line of the stream; an error comes as one of them, under status 200."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise BackendError(f"{url} answered {line[:200]!r}, as Ollama never does: is another program there?")
    if "error" in row:
        raise BackendError(
            f"Ollama did not make the model: {str(row['error'])[:300]!r}; update it or free what it names"
        )
    return row


def _check_answer(response: httpx.Response) -> None:
    """Raise for an answer that is no success; redirects count among them, because they lead elsewhere."""
    if response.is_success:
        return
    response.read()
    try:
        said = str(response.json()["error"])[:300]
    except (ValueError, KeyError, TypeError):
        said = response.text[:300]
    raise BackendError(
        f"Ollama answered {response.status_code} to {response.request.method} {response.request.url.path}: {said!r}; "
        "look at its log, or name another server with --host"
    )


def _shown(value: Any) -> str:
    """Return a text of the server without what a terminal would obey."""
    return "".join(filter(str.isprintable, str(value)))[:200]


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
