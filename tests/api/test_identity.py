"""The canaries: which weights answer may not depend on who was asked before or at the same time."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from factory.api import chat, schema
from factory.api.router import Router
from tests.api.served import pieces
from tests.tiny import TINY_ROWS

MODELS = ("tiny-instruct", "gate", "pump")
QUESTIONS = tuple(question for question, _ in TINY_ROWS)


def _cold(catalog, model, question):
    """Return the greedy answer of an engine that was asked nothing before, whole and streamed."""

    async def answer():
        router = Router(catalog)
        served = router.find(model)
        asked = {"model": model, "messages": [{"role": "user", "content": question}]}
        body = chat.chat_body(served, schema.read(schema.ChatRequest, asked)[0])
        try:
            whole = await router.answer(served, "chat/completions", body)
        finally:
            await router.close()
        return whole.body["choices"][0]["message"]["content"]

    return asyncio.run(answer())


def _whole(client, model, question=QUESTIONS[0]):
    messages = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return answer.choices[0].message.content


def _streamed(client, model, question=QUESTIONS[0]):
    messages = [{"role": "user", "content": question}]
    return pieces(client.chat.completions.create(model=model, messages=messages, stream=True))[0]


@pytest.fixture(scope="module")
def cold(catalog):
    return {model: _cold(catalog, model, QUESTIONS[0]) for model in MODELS}


def test_base_and_both_adapters_answer_differently(cold):
    assert len(set(cold.values())) == 3


def test_alternating_20_times_gives_the_answers_of_cold_engines(client, cold):
    for _ in range(20):
        for model in MODELS:
            assert _whole(client, model) == cold[model]


def test_alternating_20_times_gives_the_same_streams(client):
    first = {model: _streamed(client, model) for model in MODELS}

    assert len(set(first.values())) == 3
    for _ in range(20):
        for model in reversed(MODELS):
            assert _streamed(client, model) == first[model]


def _is_sure(client, model, question):
    """Tell whether no token of an answer is so close to another that rounding can swap them."""
    fields = {"model": model, "messages": [{"role": "user", "content": question}]}
    answer = client.chat.completions.create(**fields, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    gaps = [token.top_logprobs[0].logprob - token.top_logprobs[1].logprob for token in tokens]
    return len(tokens) >= answer.usage.completion_tokens - 1 and min(gaps) > 0.1


def test_eight_at_once_get_the_answers_of_one_at_a_time(client):
    pairs = [(model, question) for question in QUESTIONS for model in MODELS]
    asked = [pair for pair in pairs if _is_sure(client, *pair)] * 3
    alone = {pair: (_whole(client, *pair), _streamed(client, *pair)) for pair in asked}
    with ThreadPoolExecutor(8) as pool:
        whole = pool.map(lambda pair: _whole(client, *pair), asked)
        streamed = pool.map(lambda pair: _streamed(client, *pair), asked)

    assert list(zip(whole, streamed, strict=True)) == [alone[pair] for pair in asked]
    assert {model for model, _ in asked} == set(MODELS)
    assert len(asked) >= 3 * 8


def test_every_request_names_the_scales_of_all_adapters(catalog):
    scales = {name: [entry["scale"] for entry in catalog.models[name].scales()] for name in catalog.models}

    assert scales["tiny-instruct"] == [0.0, 0.0]
    assert scales["gate"] == [1.0, 0.0]
    assert scales["pump"] == [0.0, 1.0]
    assert scales["gate:Q8_0"] == scales["stub-endpoint"] == []
