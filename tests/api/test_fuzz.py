"""Requests that nobody meant, to a stub and to real engines: all are answered, and nothing goes wrong inside."""

import asyncio
import copy
import json
import logging
import random
import string
from urllib.parse import quote

import httpx

from factory.api.guard import Guard, Rules
from factory.api.router import Router
from factory.api.routes import build_api
from tests.api.served import KEY, stub_router
from tests.api.test_clients import AIDER, CONTINUE, OPEN_WEBUI, ZED

NUM_REQUESTS = 10_000
NUM_TO_ENGINES = 600
SEED = 20_261
NOT_OFFERED = 501  # what this server has no model or package for
QUESTION = {
    "messages": [{"role": "user", "content": "What is the code of the north gate?"}],
    "temperature": 0,
}
COMPLETION = {"model": "stub-endpoint", "prompt": "def f(", "max_tokens": 4, "logprobs": 1, "stop": "\n"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
WIDE = {"messages": [{"role": "user", "content": "x"}], "response_format": FORMAT, "tools": [TOOL], "seed": 1}
SOUND = [body | {"model": "stub-endpoint"} for body in (AIDER, CONTINUE, OPEN_WEBUI, ZED, WIDE, COMPLETION)]
PATHS = ["/v1/chat/completions"] * 6 + ["/v1/completions"] * 4
PATHS += [
    "/v1/models",
    "/v1/models/x",
    "/v1/embeddings",
    "/health",
    "/metrics",
    "/",
    "/v1/../metrics",
    "//v1",
]
METHODS = ["POST"] * 12 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FUZZ"]
ODD = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, -0.5, 1e308, float("inf"), float("nan"), "", "x",
    "<|im_end|>", "\x00", "\ud800", "\u202e", "💥" * 100, [], {}, [[]], [None], {"": None}, {"type": "text"},
    {"type": "text", "text": 1}, {"role": "user"}, [{"role": "system", "content": None}], "a" * 5000, [1] * 600,
    {"\ud800": 1}, {"type": "json_schema", "json_schema": 3}, {"type": []}, [{"type": "text", "text": "\ud800"}],
]  # fmt: skip


def _places(value, path=()):
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from _places(inner, (*path, key))


def _mutated(rng):
    """Return a sound body in which up to four places were replaced, removed or renamed."""
    body = copy.deepcopy(rng.choice(SOUND))
    for _ in range(rng.randrange(5)):
        path = rng.choice([place for place in _places(body) if place])
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        if rng.random() < 0.2:
            del holder[path[-1]]
        elif isinstance(holder, dict) and rng.random() < 0.1:
            holder[rng.choice(["", "lora", "grammar", "n_discard", "\ud800", "é\r\n"])] = rng.choice(ODD)
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(ODD))
        if not body:
            break
    return json.dumps(body).encode()


def _random_json(rng, depth=0):
    kind = rng.randrange(7 if depth < 5 else 4)
    if kind == 0:
        return rng.choice(ODD)
    if kind < 4:
        return rng.choice([rng.random(), rng.getrandbits(70), "".join(rng.choices(string.printable, k=9))])
    items = [_random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = [*COMPLETION, *WIDE, "stream", "n", "x"]
    return items if kind == 4 else {rng.choice(names): item for item in items}


def _content(rng):
    draw = rng.random()
    if draw < 0.7:
        return _mutated(rng)
    if draw < 0.85:
        return json.dumps(_random_json(rng)).encode()
    if draw < 0.9:
        return rng.choice([b"[", b'{"a":']) * rng.randrange(1, 3000)
    if draw < 0.95:
        sound = bytearray(_mutated(rng))
        sound[rng.randrange(len(sound))] = rng.randrange(256)
        return bytes(sound)
    return rng.randbytes(rng.randrange(200))


def _headers(rng):
    headers = [
        ("host", "localhost"),
        ("authorization", f"Bearer {KEY}"),
        ("content-type", "application/json"),
    ]
    if rng.random() < 0.15:
        name = rng.choice(
            ["host", "origin", "authorization", "content-length", "accept", "content-type", "te"]
        )
        value = bytes(rng.choices(range(32, 255), k=rng.randrange(30)))
        headers = [pair for pair in headers if pair[0] != name] + [(name, value)]
    return headers


def _path(rng):
    if rng.random() < 0.9:
        return rng.choice(PATHS)
    return rng.choice(["/", "/v1/", "/v1/models/"]) + quote(rng.randbytes(rng.randrange(40)), safe="/%?;")


async def _ask(client, model):
    """Return what a model answers to a question, greedily."""
    headers = {"Authorization": f"Bearer {KEY}"}
    body = QUESTION | {"model": model, "max_tokens": 12}
    answer = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


async def _send_all(router, models, seed, num):
    """Send requests, sound ones to any of some models, and return how often each status came back.

    Completions that were answered count as "answers". Every model says the same before and after.
    """
    rng, statuses = random.Random(seed), {}
    transport = httpx.ASGITransport(Guard(build_api(router), Rules(KEY)), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False) as client:
        before = [await _ask(client, model) for model in models]
        for number in range(num):
            try:
                content = _content(rng).replace(b"stub-endpoint", rng.choice(models).encode())
                request = client.build_request(
                    rng.choice(METHODS), _path(rng), content=content, headers=_headers(rng)
                )
            except (httpx.InvalidURL, ValueError):
                continue
            answer = await client.send(request)
            assert answer.status_code < 500 or answer.status_code == NOT_OFFERED, (
                number,
                request.content,
                answer.text,
            )
            if answer.status_code >= 400 and request.method != "HEAD":
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, request
            asked = request.method == "POST" and request.url.path.endswith("completions")
            key = "answers" if asked and answer.status_code == 200 else answer.status_code
            statuses[key] = statuses.get(key, 0) + 1
        assert [await _ask(client, model) for model in models] == before
    await router.close()
    return statuses


def test_ten_thousand_odd_requests_are_all_answered(caplog):
    caplog.set_level(logging.WARNING)
    statuses = asyncio.run(_send_all(stub_router(), ["stub-endpoint"], SEED, NUM_REQUESTS))

    assert sum(statuses.values()) > 0.99 * NUM_REQUESTS
    assert statuses["answers"] > 300
    assert statuses[400] > 2000
    assert {401, 403, 404, 405} <= set(statuses)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_real_engines_outlive_odd_requests_and_answer_as_before(catalog, caplog):
    caplog.set_level(logging.WARNING)
    router = Router(catalog)
    statuses = asyncio.run(_send_all(router, ["gate", "pump", "tiny-instruct"], SEED + 1, NUM_TO_ENGINES))

    assert statuses["answers"] > 20
    assert b"engine_deaths_total 0.0" in router.metrics.text()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
