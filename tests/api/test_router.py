"""Who answers when an engine dies, never starts, or an endpoint stands in; what a leaving client ends."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest

from factory.api.models import Catalog, EndpointSpec, endpoint_model
from factory.api.router import ENGINE_ONLY, Router
from factory.backends.engine import Engine, EnginePool
from tests.api.served import (
    ASKED,
    FakeUpstream,
    chunk,
    events,
    fake_engine,
    pieces,
    says_done,
    serving,
)

CHAT = "/v1/chat/completions"
LONG = {"model": "tiny-instruct", "messages": ASKED, "max_tokens": 220, "stream": True, "temperature": 0}
BODY = {"model": "slow", "messages": list(ASKED), "top_k": 3, "min_p": 0.1, "repeat_penalty": 1.1}


@pytest.fixture
def afar(monkeypatch):
    monkeypatch.setenv("AFAR_KEY", "afar-secret")
    with FakeUpstream(says_done) as endpoint:
        yield EndpointSpec("afar", f"{endpoint.url}/v1", "big-model", "AFAR_KEY"), endpoint


def _never_starts(catalog, **more):
    pool = EnginePool(make=lambda spec: Engine(spec, command=("/bin/false",)))
    return Router(catalog, pool=pool, **more)


@pytest.fixture
def fresh(catalog):
    with serving(Router(catalog)) as server:
        yield server


def test_an_engine_killed_between_requests_is_started_again(fresh):
    with fresh.openai() as client, fresh.http() as http:
        before = client.chat.completions.create(model="gate", messages=ASKED)
        for _ in range(3):
            os.kill(fresh.engine("gate").pid, signal.SIGKILL)
            again = client.chat.completions.create(model="gate", messages=ASKED)
            assert again.choices == before.choices
        metrics = http.get("/metrics").text
    assert "\nadapter_factory_engine_deaths_total 3.0\n" in metrics


def test_an_engine_killed_in_a_stream_ends_it_and_no_other(fresh):
    with fresh.openai() as client, fresh.http() as http:
        _kill_in_a_stream(fresh, client, http)


def _kill_in_a_stream(server, client, http):
    other = client.chat.completions.create(model="gate:Q8_0", messages=ASKED, temperature=0)
    with ThreadPoolExecutor(1) as pool, http.stream("POST", CHAT, json=LONG) as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith("data: "))
        streamed = pool.submit(
            lambda: pieces(client.chat.completions.create(model="gate:Q8_0", messages=ASKED, stream=True))
        )
        os.kill(server.engine("tiny-instruct").pid, signal.SIGKILL)
        got = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        text, reason, _ = streamed.result()

    assert response.status_code == 200
    assert got[-1] == "[DONE]"
    assert json.loads(got[-2])["error"]["code"] == "engine_unavailable"
    assert (text, reason) == (other.choices[0].message.content, "stop")
    assert client.chat.completions.create(**LONG | {"stream": False, "max_tokens": 2}).choices


def test_an_engine_that_never_starts_is_one_clear_line(catalog):
    with serving(_never_starts(catalog)) as server, server.http() as http:
        for stream in (False, True):
            answer = http.post(CHAT, json={"model": "gate", "messages": list(ASKED), "stream": stream})
            error = answer.json()["error"]
            assert answer.status_code == 503
            assert "did not start (exit 1)" in error["message"]
            assert "--fallback" in error["message"]
            assert "\n" not in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_endpoint_stands_in_only_where_allowed_and_says_so(catalog, afar, stream):
    spec, endpoint = afar
    body = BODY | {"model": "gate", "stream": stream}
    with serving(_never_starts(catalog, fallback=spec)) as server, server.http() as http:
        with http.stream("POST", CHAT, json=body) as answer:
            answer.read() if not stream else None
            got = events(answer) if stream else [answer.text]
        metrics = http.get("/metrics").text
    ((path, headers, sent),) = endpoint.seen

    assert answer.headers["x-answered-by"] == "afar"
    assert answer.headers["x-instead-of"] == "gate"
    assert answer.headers["x-answered-where"] == "endpoint"
    assert "from " in got[0]
    assert json.loads(got[0])["model"] == "afar"
    assert "secret" not in got[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer afar-secret"
    assert sent["model"] == "big-model"
    assert not set(ENGINE_ONLY) & set(sent)
    assert 'adapter_factory_fallbacks_total{model="gate"} 1.0' in metrics


def test_an_endpoint_is_a_model_of_its_own_and_never_an_engine(catalog, afar):
    spec, endpoint = afar
    router = Router(Catalog({"afar": endpoint_model(spec)}))
    with serving(router) as server, server.openai() as client:
        answer = client.chat.completions.create(model="afar", messages=ASKED)
        text, _, _ = pieces(client.chat.completions.create(model="afar", messages=ASKED, stream=True))
        cards = client.models.list().model_dump_json()

    assert answer.choices[0].message.content == text == "from afar"
    assert endpoint.url not in cards
    assert "afar-secret" not in cards
    assert router.pool.engines == ()


def test_an_endpoint_without_its_key_is_refused_before_anything_is_sent(afar, monkeypatch):
    spec, endpoint = afar
    monkeypatch.delenv("AFAR_KEY")
    router = Router(Catalog({"afar": endpoint_model(spec)}))
    refused = pytest.raises(openai.BadRequestError, match="AFAR_KEY")
    with serving(router) as server, server.openai() as client, refused:
        client.chat.completions.create(model="afar", messages=ASKED)
    assert endpoint.seen == []


def test_an_endpoint_that_cannot_be_reached_is_503_and_not_tried_twice(afar):
    spec, _ = afar
    for url in ("http://127.0.0.1:9/v1", "http://127.0.0.1:y/v1"):
        router = Router(Catalog({"afar": endpoint_model(replace(spec, url=url))}))
        with serving(router) as server, server.openai() as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="afar", messages=ASKED)
        assert b'lost_attempts_total{model="afar"} 1.0' in router.metrics.text()


def _refuses(status):
    def answer(handler, body):
        handler.begin(status)
        handler.wfile.write(b'{"error": {"message": "no such grammar", "type": "invalid"}}')

    return answer


@pytest.mark.parametrize(("status", "given"), [(400, 400), (429, 429), (401, 502), (500, 502)])
def test_an_error_of_the_engine_is_passed_on_and_not_asked_again(status, given):
    with fake_engine(_refuses(status)) as (engine, _, http):
        answers = [http.post(CHAT, json=BODY | {"stream": stream}) for stream in (False, True)]
    assert [answer.status_code for answer in answers] == [given, given]
    assert "no such grammar" in answers[0].text
    assert len(engine.seen) == 2


def _breaks(handler, body):
    handler.begin(kind="text/event-stream")
    handler.wfile.write(chunk("half "))


def _babbles(handler, body):
    handler.begin(kind="text/event-stream")
    handler.wfile.write(chunk("half ") + b"data: {nonsense\n\n")


def _fails(handler, body):
    handler.begin(kind="text/event-stream")
    handler.wfile.write(chunk("half ") + b'data: {"error": {"code": 500, "message": "out of memory"}}\n\n')


@pytest.mark.parametrize("misbehaves", [_breaks, _babbles, _fails])
def test_half_a_stream_ends_in_an_error_and_is_never_begun_anew(misbehaves):
    with fake_engine(misbehaves) as (engine, _, http):
        got = events(http.post(CHAT, json=BODY | {"stream": True}))

    assert len(engine.seen) == 1
    assert "half" in got[0]
    assert "error" in json.loads(got[1])
    assert got[2:] == ["[DONE]"]
