import asyncio
import json

import httpx
import pytest

from factory.backends import upstream
from factory.backends.upstream import AnsweredError, LostError

URL = "http://upstream.test/v1/chat/completions"


def _client(answer):
    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


def _says(status=200, **content):
    return lambda request: httpx.Response(status, **content)


def _post(answer, key="k"):
    async def run():
        async with _client(answer) as client:
            return await upstream.post(client, URL, key, {"x": 1})

    return asyncio.run(run())


def _stream(text, status=200, kind="text/event-stream"):
    async def run():
        answer = _says(status, content=text.encode(), headers={"content-type": kind})
        got = []
        async with _client(answer) as client:
            try:
                async for chunk in upstream.stream(client, URL, "", {}):
                    got.append(chunk)
            except (AnsweredError, LostError) as error:
                got.append(error)
        return got

    return asyncio.run(run())


def test_a_whole_answer_comes_back_and_the_key_goes_along():
    seen = []

    def answer(request):
        seen.append((request.headers.get("authorization"), json.loads(request.content)))
        return httpx.Response(200, json={"a": 1})

    assert _post(answer) == {"a": 1}
    assert _post(answer, key="") == {"a": 1}
    assert seen == [("Bearer k", {"x": 1}), (None, {"x": 1})]


@pytest.mark.parametrize(
    ("content", "message", "code"),
    [
        ({"json": {"error": {"message": "too long", "type": "context"}}}, "too long", "context"),
        ({"json": {"error": "plain"}}, "plain", "upstream_error"),
        ({"json": {"error": {"message": None}}}, "None", "upstream_error"),
        ({"json": [1]}, "[1]", "upstream_error"),
        ({"text": "<html>" + "x" * 9000}, "<html>" + "x" * 394, "upstream_error"),
        ({"text": ""}, "status 418", "upstream_error"),
    ],
)
def test_an_error_is_told_in_the_servers_words(content, message, code):
    with pytest.raises(AnsweredError) as caught:
        _post(_says(418, **content))
    assert (caught.value.status, str(caught.value), caught.value.code) == (418, message, code)


@pytest.mark.parametrize("content", [{"text": "no json"}, {"json": [1]}, {"content": b"\xff"}])
def test_an_answer_of_another_shape_is_lost(content):
    with pytest.raises(LostError, match="not"):
        _post(_says(**content))


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("no"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("x")]
)
def test_a_server_that_cannot_be_reached_is_lost(error):
    def answer(request):
        raise error

    with pytest.raises(LostError, match=type(error).__name__):
        _post(answer)


def test_an_address_that_is_none_is_lost():
    async def run():
        async with upstream.open_client() as client:
            await upstream.post(client, "http://127.0.0.1:y/v1", "", {})

    with pytest.raises(LostError, match="InvalidURL"):
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


def test_the_environments_proxies_and_redirects_are_not_followed(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:1")

    async def run():
        async with upstream.open_client() as client:
            return client.trust_env, client.follow_redirects

    assert asyncio.run(run()) == (False, False)
