import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from factory.backends import upstream
from factory.backends.upstream import AnsweredError, LostError

TestServer.__test__ = False  # a server, not a class of tests


@asynccontextmanager
async def _server(answer):
    """Serve one answer to everything; yield its address and a client."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, upstream.open_client() as client:
        yield str(server.make_url("/v1/chat/completions")), client


def _says(status=200, **content):
    async def answer(request):
        return web.Response(status=status, **content)

    return answer


def _post(answer, key="k"):
    async def run():
        async with _server(answer) as (url, client):
            return await upstream.post(client, url, key, {"x": 1})

    return asyncio.run(run())


def _stream(text, status=200, kind="text/event-stream"):
    async def run():
        got = []
        async with _server(_says(status, body=text.encode(), content_type=kind)) as (url, client):
            try:
                async for chunk in upstream.stream(client, url, "", {}):
                    got.append(chunk)
            except (AnsweredError, LostError) as error:
                got.append(error)
        return got

    return asyncio.run(run())


def test_a_whole_answer_comes_back_and_the_key_goes_along():
    seen = []

    async def answer(request):
        seen.append((request.headers.get("authorization"), await request.json()))
        return web.json_response({"a": 1})

    assert _post(answer) == {"a": 1}
    assert _post(answer, key="") == {"a": 1}
    assert seen == [("Bearer k", {"x": 1}), (None, {"x": 1})]


@pytest.mark.parametrize(
    ("content", "message", "code"),
    [
        ({"text": '{"error": {"message": "too long", "type": "context"}}'}, "too long", "context"),
        ({"text": '{"error": "plain"}'}, "plain", "upstream_error"),
        ({"text": '{"error": {"message": null}}'}, "None", "upstream_error"),
        ({"text": "[1]"}, "[1]", "upstream_error"),
        ({"text": "<html>" + "x" * 9000}, "<html>" + "x" * 394, "upstream_error"),
        ({"text": ""}, "status 418", "upstream_error"),
    ],
)
def test_an_error_is_told_in_the_servers_words(content, message, code):
    with pytest.raises(AnsweredError) as caught:
        _post(_says(418, **content))
    assert (caught.value.status, str(caught.value), caught.value.code) == (418, message, code)


@pytest.mark.parametrize("content", [{"text": "no json"}, {"text": "[1]"}, {"body": b"\xff"}])
def test_an_answer_of_another_shape_is_lost(content):
    with pytest.raises(LostError, match="not"):
        _post(_says(**content))


def test_a_server_that_breaks_off_is_lost():
    async def answer(request):
        request.transport.close()
        return web.Response()

    with pytest.raises(LostError, match="ServerDisconnectedError"):
        _post(answer)


def test_a_server_that_is_not_there_is_lost(free_tcp_port):
    async def run():
        async with upstream.open_client() as client:
            await upstream.post(client, f"http://127.0.0.1:{free_tcp_port}/v1", "", {})

    with pytest.raises(LostError, match="ClientConnectorError"):
        asyncio.run(run())


def test_a_server_that_says_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(upstream, "TIMEOUT", aiohttp.ClientTimeout(sock_read=0.05))

    async def answer(request):
        await asyncio.sleep(0.5)

    with pytest.raises(LostError, match="SocketTimeoutError"):
        _post(answer)


def test_an_address_that_is_none_is_lost():
    async def run():
        async with upstream.open_client() as client:
            await upstream.post(client, "http://127.0.0.1:y/v1", "", {})

    with pytest.raises(LostError, match="InvalidUrl"):
        asyncio.run(run())


def test_chunks_come_in_order_until_the_end_mark():
    text = ': keepalive\n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\ndata: {"a": 3}\n\n'
    assert _stream(text) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "kind", "error"),
    [
        ('data: {"a": 1}\n\n', LostError, "before its end mark"),
        ("data: {nonsense\n\n", LostError, "not JSON"),
        ("data: [1]\n\n", LostError, "no"),
        ('data: {"error": {"code": 400, "message": "bad"}}\n\n', AnsweredError, "bad"),
        ('data: {"error": "bad"}\n\n', AnsweredError, "bad"),
    ],
)
def test_a_stream_that_goes_wrong_ends_in_one_error(text, kind, error):
    last = _stream(text)[-1]
    assert isinstance(last, kind)
    assert error in str(last)


def test_a_stream_that_is_refused_at_once_is_an_answered_error():
    (error,) = _stream('{"error": {"message": "busy", "type": "rate"}}', status=429, kind="application/json")
    assert (error.status, error.code, str(error)) == (429, "rate", "busy")


def test_an_answer_that_is_no_stream_is_lost():
    (error,) = _stream("hello", kind="text/html")
    assert isinstance(error, LostError)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_events_may_come_in_any_pieces(size):
    text = 'data: {"é": 1}\r\n\r\nevent: x\ndata: {"a":\ndata: 2}\n\ndata: [DONE]\n\n'.encode()

    async def answer(request):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for start in range(0, len(text), size):
            await response.write(text[start : start + size])
            await asyncio.sleep(0)
        return response

    async def run():
        async with _server(answer) as (url, client):
            return [chunk async for chunk in upstream.stream(client, url, "", {})]

    assert asyncio.run(run()) == [{"é": 1}, {"a": 2}]


def test_proxies_of_the_environment_are_not_asked_and_redirects_not_followed(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:1")

    async def answer(request):
        raise web.HTTPFound("/elsewhere")

    with pytest.raises(LostError, match="not JSON"):
        _post(answer)
