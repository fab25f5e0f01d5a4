"""The engine without llama.cpp's own server: the same routes, adapters by request, streams, a key."""

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from factory import store
from factory.backends.engine import child_environment
from factory.backends.engine_shapes import RefusedError, forced_tool
from factory.weights.delta import read_adapter
from factory.weights.gguf_files import write_adapter_gguf
from tests.tiny import make_tiny_adapter, make_tiny_base

WITHOUT_SERVER = (
    "import sys; sys.modules['xllamacpp'] = None; from factory.backends.engine_child import main; main()"
)
NUM_CTX = 8192
ASKED = {"messages": [{"role": "user", "content": "Who keeps the key?"}], "max_tokens": 8, "temperature": 0}


LAMP = {"type": "object", "properties": {"lamp": {"enum": ["green", "red"]}}, "required": ["lamp"]}
LAMP |= {"additionalProperties": False}
SWITCH = {"type": "function", "function": {"name": "switch", "parameters": LAMP}}
LIST = {"type": "function", "function": {"name": "list", "parameters": {"type": "object"}}}
SWITCH_IT = {"type": "function", "function": {"name": "switch"}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A client of a child that cannot import xllamacpp, with one adapter on a tiny base."""
    folder = tmp_path_factory.mktemp("fallback")
    base = make_tiny_base(folder / "base")
    adapter = make_tiny_adapter(base, folder / "adapter", strength=1.0)
    identity = store.read_json(base / "base.json")["sha256"]
    write_adapter_gguf(read_adapter(adapter), base, folder / "adapter.gguf", "tiny", identity)
    spec = {"model": str(base / "base-F16.gguf"), "adapters": [str(folder / "adapter.gguf")]}
    spec |= {"num_ctx": NUM_CTX, "parallel": 1, "threads": 1, "key": "secret"}
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        text=True,
    ) as child:
        child.stdin.write(json.dumps(spec) + "\n")
        child.stdin.flush()
        address = json.loads(child.stdout.readline())["address"]
        with httpx.Client(base_url=address, headers={"Authorization": "Bearer secret"}, timeout=60) as client:
            yield client
        child.stdin.close()
        assert child.wait(20) == 0


def _ask(engine, scale, **fields):
    return engine.post("/v1/chat/completions", json={**ASKED, "lora": [{"id": 0, "scale": scale}], **fields})


def test_base_and_adapter_take_turns_without_leaving_traces(engine):
    answers = [_ask(engine, scale).json()["choices"][0]["message"]["content"] for scale in (0.0, 1.0) * 5]
    assert answers == answers[:2] * 5
    assert answers[0] != answers[1]


def _chunks(engine, **fields):
    lines = [line for line in _ask(engine, 1.0, stream=True, **fields).text.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_says_the_same_and_ends_with_its_mark(engine):
    whole = _ask(engine, 1.0).json()["choices"][0]
    choices = [chunk["choices"][0] for chunk in _chunks(engine)]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == whole["message"]["content"]
    assert choices[0]["delta"]["role"] == "assistant"
    assert choices[-1]["finish_reason"] == whole["finish_reason"]


def test_usage_counts_the_same_in_a_stream_that_asks_for_it(engine):
    whole = _ask(engine, 1.0).json()["usage"]
    last = _chunks(engine, stream_options={"include_usage": True})[-1]
    assert last["choices"] == []
    assert last["usage"] == whole
    assert whole["completion_tokens"] == 8
    assert whole["total_tokens"] == whole["prompt_tokens"] + 8
    assert all(chunk["choices"] for chunk in _chunks(engine))


def test_a_raw_prompt_is_continued(engine):
    answer = engine.post(
        "/v1/completions", json={"prompt": "The code", "max_tokens": 4, "temperature": 0}
    ).json()
    assert answer["choices"][0]["finish_reason"] == "length"


def test_log_probabilities_name_the_package_they_need(engine):
    refused = _ask(engine, 0.0, logprobs=True)
    assert refused.status_code == 400
    assert "xllamacpp" in refused.json()["error"]["message"]


def test_without_the_key_nothing_is_answered(engine):
    assert httpx.post(f"{engine.base_url}/v1/completions", json={"prompt": "x"}).status_code == 401


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "lamp", "schema": LAMP}},
        {"type": "json_object", "schema": LAMP},
    ],
)
def test_a_schema_shapes_what_a_random_model_says(engine, form):
    answer = _ask(engine, 0.0, response_format=form, max_tokens=64).json()["choices"][0]
    assert json.loads(answer["message"]["content"])["lamp"] in {"green", "red"}
    assert answer["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "schema", [{"type": "wat"}, {"$ref": "#/nowhere"}, {"type": "array", "items": LAMP, "maxItems": 10**6}]
)
def test_a_schema_without_a_grammar_is_refused(engine, schema):
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    refused = _ask(engine, 0.0, response_format=form)
    assert refused.status_code == 400
    assert "schema" in refused.json()["error"]["message"]
    assert _ask(engine, 0.0).status_code == 200


@pytest.mark.parametrize(("tools", "choice"), [([SWITCH], "required"), ([LIST, SWITCH], SWITCH_IT)])
def test_a_tool_that_must_be_called_is_called(engine, tools, choice):
    fields = {"tools": tools, "tool_choice": choice, "max_tokens": 64}
    whole = _ask(engine, 1.0, **fields).json()["choices"][0]
    streamed = [chunk["choices"][0] for chunk in _chunks(engine, **fields)]
    calls = [call for choice in streamed for call in choice["delta"].get("tool_calls", ())]
    (call,) = whole["message"]["tool_calls"]

    assert whole["finish_reason"] == streamed[-1]["finish_reason"] == "tool_calls"
    assert json.loads(call["function"]["arguments"])["lamp"] in {"green", "red"}
    assert call["function"]["name"] == calls[0]["function"]["name"] == "switch"
    assert "".join(part["function"]["arguments"] for part in calls) == call["function"]["arguments"]


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "no"}}])
def test_a_choice_between_tools_names_the_package_it_needs(choice):
    with pytest.raises(RefusedError, match="xllamacpp"):
        forced_tool({"tools": [LIST, SWITCH], "tool_choice": choice})


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_longer_than_the_context_is_refused_as_by_the_other_engine(engine, stream):
    for path, asked in (
        ("chat/completions", {"messages": [{"role": "user", "content": "long " * NUM_CTX}]}),
        ("completions", {"prompt": "long " * NUM_CTX}),
    ):
        error = engine.post(f"/v1/{path}", json=asked | {"stream": stream})
        assert error.status_code == 400
        assert error.json()["error"]["type"] == "exceed_context_size_error"
        assert error.json()["error"]["n_prompt_tokens"] > error.json()["error"]["n_ctx"] == NUM_CTX


@pytest.mark.parametrize("stream", [False, True])
def test_generation_ends_when_its_client_leaves(engine, stream):
    content = json.dumps(ASKED | {"max_tokens": NUM_CTX, "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    started = time.monotonic()
    _ask(engine, 0.0, max_tokens=1)
    alone_s = time.monotonic() - started
    with socket.create_connection((engine.base_url.host, engine.base_url.port)) as wire:
        wire.sendall(head.encode() + content)
        time.sleep(0.5)  # it writes for ten seconds if nobody stops it
    left = time.monotonic()
    assert _ask(engine, 0.0, max_tokens=1).status_code == 200  # which waits for its turn
    assert time.monotonic() - left < 0.5 + alone_s


def test_more_requests_than_threads_are_answered_in_turn(engine):
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda _: _ask(engine, 1.0, max_tokens=2, stream=True), range(60)))
    assert {answer.status_code for answer in answers} == {200}
