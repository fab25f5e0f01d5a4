import asyncio
import base64
import socket
from http.client import HTTPResponse

import httpx
import pytest

from factory.api.guard import HEADERS, LOOPBACK, MAX_BODY_BYTES, MAX_RUNNING, Guard, Rules, host_name
from factory.api.routes import build_api
from tests.api.served import KEY, Serving, stub_router

BEARER = {"Authorization": f"Bearer {KEY}"}
MODELS, CHAT = "/v1/models", "/v1/chat/completions"


@pytest.fixture(scope="module")
def stub():
    server = Serving(stub_router())
    yield server
    server.close()


def _get(server, path=MODELS, **headers):
    headers = {name.replace("_", "-"): value for name, value in (BEARER | headers).items()}
    return httpx.get(f"{server.url}{path}", headers=headers, trust_env=False)


def _raw(server, request):
    """Return the status and the body that come back for raw bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as wire:
        wire.sendall(request)
        with HTTPResponse(wire) as answer:
            answer.begin()
            return answer.status, answer.read()


def _basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (_basic(f"me:{KEY}"), 200),
        (_basic(f":{KEY}"), 200),
        ("", 401),
        ("Bearer", 401),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Bearer {KEY.upper()}", 401),
        (KEY, 401),
        (_basic(KEY), 401),
        ("Basic !!!", 401),
        ("Basic /w==", 401),
        (f"Digest {KEY}", 401),
    ],
)
def test_the_key_is_asked_for_in_either_form(stub, given, status):
    answer = _get(stub, Authorization=given)

    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("name", ["x-api-key", "api-key", "cookie"])
def test_the_key_counts_in_no_other_header(stub, name):
    assert httpx.get(f"{stub.url}{MODELS}", headers={name: KEY}, trust_env=False).status_code == 401
    assert httpx.get(f"{stub.url}{MODELS}?key={KEY}", trust_env=False).status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x", "/metrics", "/v1/nothing", "/v1"])
def test_no_route_of_the_api_answers_without_the_key(stub, path):
    assert httpx.get(f"{stub.url}{path}", trust_env=False).status_code == 401


HOSTS = {
    "localhost": 200,
    "LOCALHOST:8080": 200,
    "127.0.0.1:1": 200,
    "[::1]": 200,
    "[::1]:8080": 200,
    "evil.example": 400,
    "evil.example:8080": 400,
    "localhost.evil.example": 400,
    "localhost:4000/#@x": 400,
    "127.0.0.1.nip.io": 400,
    "127.0.0.2": 400,
    "::1": 400,
    "localhost@evil.example": 400,
    "": 400,
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/ui"])
def test_a_foreign_host_is_refused_on_every_route(stub, host, path):
    status = _get(stub, path, Host=host).status_code
    assert (status == 400) == (HOSTS[host] == 400)


def test_the_name_is_split_from_the_port():
    assert [host_name(host) for host in ("A:1", "a", "[::1]:2", "[::1]", ":1", "a:b")] == [
        "a",
        "a",
        "[::1]",
        "[::1]",
        ":1",
        "a:b",
    ]


@pytest.mark.parametrize("path", [MODELS, "/health"])
def test_a_foreign_origin_is_refused_and_the_own_one_is_not(stub, path):
    own = f"127.0.0.1:{stub.port}"
    for origin in ("http://evil.example", "null", "", "http://localhost:1", "http://127.0.0.1", own):
        assert _get(stub, path, Origin=origin).status_code == 403, origin
    assert _get(stub, path, Origin=f"http://{own}").status_code == 200
    assert _get(stub, path, Host="localhost:9", Origin="http://localhost:9").status_code == 200


def test_no_answer_allows_other_origins(stub):
    for headers in ({}, {"Origin": f"http://127.0.0.1:{stub.port}"}, {"Origin": "http://evil.example"}):
        assert not [name for name in _get(stub, **headers).headers if name.startswith("access-control")]


def test_a_body_that_says_it_is_too_large_is_refused_unread(stub):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n".encode()
    status, answer = _raw(stub, head + f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())

    assert status == 413
    assert b'"too_large"' in answer
    assert _raw(stub, head + b"Content-Length: 1e3\r\n\r\n")[0] == 400


def test_a_long_body_without_a_length_is_cut_off(stub):
    def endless():
        for _ in range(MAX_BODY_BYTES // 65536 + 2):
            yield b" " * 65536

    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{stub.url}{CHAT}", content=endless(), headers=BEARER)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_security_headers_go_out_with_every_answer_of_a_route(stub):
    headers = _get(stub).headers
    assert {name.decode() for name in HEADERS} <= set(headers)
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert "server" not in headers


def _ask(guard, scope):
    """Return the events that a guarded application sends for a scope."""
    sent = []

    async def receive():
        return {"type": "http.request" if scope["type"] == "http" else "websocket.connect", "body": b""}

    async def send(event):
        sent.append(event)

    asyncio.run(guard(scope, receive, send))
    return sent


def _scope(kind="http", path=MODELS, **headers):
    raw = [
        (name.lower().encode(), value.encode()) for name, value in ({"Host": "localhost"} | headers).items()
    ]
    return {"type": kind, "path": path, "method": "GET", "headers": raw, "query_string": b"", "root_path": ""}


def test_websockets_are_refused():
    guard = Guard(build_api(stub_router()), Rules(KEY))
    for scope in (
        _scope("websocket"),
        _scope("websocket", **BEARER),
        _scope("websocket", path="/ui"),
        _scope("websocket", path="/ui", Origin="http://evil.example"),
        _scope("websocket", path="/ui", Host="evil.example"),
    ):
        events = _ask(guard, scope)
        assert [event["type"] for event in events] == ["websocket.close"]


def test_an_upgrade_over_the_wire_is_refused(stub):
    request = b"GET /ui HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    status, _ = _raw(stub, request + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n")
    assert status >= 400


def test_pages_ask_for_the_key_where_other_machines_can_reach_them():
    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = Guard(page, Rules(KEY, LOOPBACK | {"box.lan"}, keyed_pages=True))
    statuses = {
        "/ui": _ask(guard, _scope(path="/ui", Host="box.lan:8080"))[0]["status"],
        "/ui with key": _ask(guard, _scope(path="/ui", Authorization=_basic(f"x:{KEY}")))[0]["status"],
        "/health": _ask(guard, _scope(path="/health"))[0]["status"],
    }
    assert statuses == {"/ui": 401, "/ui with key": 200, "/health": 200}


def test_more_requests_than_can_be_held_are_told_to_come_back():
    async def run():
        going, statuses = asyncio.Event(), []

        async def app(scope, receive, send):
            await going.wait()

        async def send(event):
            statuses.append(event.get("status"))

        guard = Guard(app, Rules(KEY))
        tasks = [asyncio.create_task(guard(_scope(**BEARER), None, send)) for _ in range(MAX_RUNNING)]
        await asyncio.sleep(0)
        await guard(_scope(**BEARER), None, send)
        going.set()
        await asyncio.gather(*tasks)
        await guard(_scope(**BEARER), None, send)
        return statuses

    assert asyncio.run(run())[0] == 429


def test_the_key_is_in_no_representation():
    assert KEY not in repr(Rules(KEY))
