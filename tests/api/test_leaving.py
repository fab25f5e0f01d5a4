"""Clients that leave, engines that are slow, bodies that do not come: nothing is left running, nobody waits forever."""

import asyncio
import json
import socket
import time

import pytest

from factory.api import routes
from factory.api.routes import build_api
from tests.api.served import ASKED, KEY, FakeUpstream, chunk, drips, events, fake_engine, fake_router

CHAT = "/v1/chat/completions"
BODY = {"model": "slow", "messages": list(ASKED)}
STREAM = BODY | {"stream": True}
USAGE = {"stream_options": {"include_usage": True}}


def _wait(until, seconds=5.0):
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.005)
    return until()


def _is_idle(server):
    return b"requests_running 0.0" in server.router.metrics.text()


def _requests(server):
    """Return how many requests ended with each status."""
    lines = server.router.metrics.text().decode().splitlines()
    counted = [line for line in lines if line.startswith("adapter_factory_requests_total{")]
    return {line.split('status="')[1].split('"')[0]: float(line.split()[-1]) for line in counted}


def floods(handler, body):
    """Write as fast as it goes until the other side leaves."""
    handler.begin(kind="text/event-stream")
    try:
        while True:
            handler.wfile.write(chunk("word " * 2000))
    except OSError:
        handler.server.closed.append(time.monotonic())


@pytest.mark.parametrize("answer", [drips, floods])
def test_leaving_a_stream_closes_the_engines_connection_within_half_a_second(answer, caplog):
    with fake_engine(answer) as (engine, server, http):
        for _ in range(5):
            with http.stream("POST", CHAT, json=STREAM) as response:
                next(response.iter_lines())
                time.sleep(0.1)  # what floods has filled every buffer by then
            left = time.monotonic()
            assert _wait(lambda: len(engine.closed) == len(engine.seen))
            assert engine.closed[-1] - left < 0.5
            assert _wait(lambda: _is_idle(server))
        assert _requests(server) == {"499": 5}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def _send_and_leave(server, engine, body):
    """Ask over a bare connection, leave once the engine was asked, and return when that was."""
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(head.encode() + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert _wait(lambda: engine.seen)
    return time.monotonic()


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_leaving_before_the_first_word_closes_the_engines_connection(body, caplog):
    def silent(handler, body):
        drips(handler, body | {"stream": False})

    with fake_engine(silent) as (engine, server, _):
        left = _send_and_leave(server, engine, body)
        assert _wait(lambda: engine.closed)
        assert engine.closed[0] - left < 0.5
        assert _wait(lambda: _is_idle(server) and _requests(server))
        assert _requests(server) == {"499": 1}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_slow_engine_is_waited_for_with_signs_of_life(monkeypatch):
    def pauses(handler, body):
        handler.begin(kind="text/event-stream")
        handler.wfile.write(chunk("one "))
        time.sleep(0.3)
        handler.wfile.write(chunk("two") + b"data: [DONE]\n\n")

    monkeypatch.setattr(routes, "KEEPALIVE_S", 0.05)
    with fake_engine(pauses) as (_, _, http):
        answer = http.post(CHAT, json=STREAM)

    assert answer.text.count(": keepalive\n\n") >= 3
    texts = [json.loads(event)["choices"][0]["delta"]["content"] for event in events(answer)[:-1]]
    assert texts == ["one ", "two"]
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(routes, "BODY_TIMEOUT_S", 0.2)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n"
    with fake_engine(drips) as (engine, server, _):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as wire:
            wire.sendall(head.encode() + b'{"model"')
            assert wire.recv(4096).startswith(b"HTTP/1.1 400 ")
        assert engine.seen == []


def test_an_empty_stream_is_an_error_with_a_status_of_its_own():
    def nothing(handler, body):
        handler.begin(kind="text/event-stream")
        handler.wfile.write(b"data: [DONE]\n\n")

    with fake_engine(nothing) as (_, _, http):
        answer = http.post(CHAT, json=STREAM)
    assert answer.status_code == 503
    assert "empty answer" in answer.json()["error"]["message"]


def test_an_event_without_text_goes_out_with_the_next_one():
    def answers(handler, body):
        handler.begin(kind="text/event-stream")
        for delta, reason in (({"role": "assistant"}, None), ({"content": "one"}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            handler.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        usage = {"choices": [], "usage": {"completion_tokens": 1}}
        handler.wfile.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())

    sent = []

    async def ask(router):
        bodies = [{"type": "http.request", "body": json.dumps(STREAM | USAGE).encode()}]

        async def receive():
            return bodies.pop() if bodies else await asyncio.Event().wait()

        async def send(event):
            if event.get("body"):
                sent.append(event["body"].decode().count("data: "))

        scope = {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": []}
        await build_api(router)(scope, receive, send)
        await router.close()

    with FakeUpstream(answers) as engine:
        asyncio.run(ask(fake_router(engine.url)))
    assert sent == [2, 3]
