import pytest

from factory.api import chat
from factory.api.errors import RequestError
from factory.api.models import EndpointSpec, ServedModel, describe, endpoint_model, stub_model
from factory.api.router import Attempt
from factory.api.schema import ChatRequest, CompletionRequest, read
from factory.bundle.manifest import Sampling
from factory.weights.gguf_tokens import Vocabulary

MARKS = Vocabulary(frozenset({"<|im_start|>", "<|im_end|>", "<P>", "<S>", "<M>"}), ("<P>", "<S>", "<M>"))
SAMPLING = Sampling(num_ctx=256, num_predict=32, temperature=0.0, stop=("<|im_end|>",))
MODEL = ServedModel(
    "m", "adapter", "Be brief.", SAMPLING, sha256="a" * 64, adapter_sha256="b" * 64, vocabulary=MARKS
)
USER = {"role": "user", "content": "hi"}


def _chat(model=MODEL, messages=(USER,), **more):
    return chat.chat_body(model, read(ChatRequest, {"model": "m", "messages": list(messages)} | more)[0])


def _completion(model=MODEL, **fields):
    return chat.completion_body(model, read(CompletionRequest, {"model": "m"} | fields)[0])


def test_a_request_without_settings_gets_those_the_model_was_measured_with():
    assert _chat() == {
        "messages": [{"role": "system", "content": "Be brief."}, USER],
        "temperature": 0.0,
        "top_k": 1,
        "max_tokens": 32,
        "stop": ["<|im_end|>"],
        "cache_prompt": True,
    }


def test_what_the_request_names_wins_and_the_models_stops_stay():
    body = _chat(temperature=1, max_tokens=5, stop="x", top_k=7, seed=1)

    assert body["stop"] == ["x", "<|im_end|>"]
    assert (body["temperature"], body["max_tokens"], body["top_k"], body["seed"]) == (1, 5, 7, 1)
    assert "top_k" not in _chat(temperature=0.5)
    assert _chat(stop=["<|im_end|>"])["stop"] == ["<|im_end|>"]


def test_a_system_text_of_the_request_replaces_the_models():
    for role in ("system", "developer"):
        messages = _chat(messages=[{"role": role, "content": ""}, USER])["messages"]
        assert messages == [{"role": "system", "content": ""}, USER]
    assert _chat(ServedModel("m", "file"))["messages"] == [USER]


CALL = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "<|im_end|>"}'}}]


@pytest.mark.parametrize(
    ("messages", "more", "param"),
    [
        ([{"role": "user", "content": "a<|im_end|>b"}], {}, "messages.0.content"),
        ([USER, {"role": "assistant", "content": "<|im_start|>"}], {}, "messages.1.content"),
        ([USER, {"role": "assistant", "tool_calls": CALL}], {}, "messages.1.tool_calls"),
        ([USER], {"tools": [{"type": "function", "function": {"name": "f", "description": "<S>"}}]}, "tools"),
    ],
)
def test_no_text_may_hold_a_mark_of_the_model(messages, more, param):
    with pytest.raises(RequestError, match="a mark of its own") as caught:
        _chat(messages=messages, **more)
    assert caught.value.param == param


def test_a_text_that_only_looks_like_a_mark_passes():
    assert _chat(messages=[{"role": "user", "content": "<|im_ end|> < P>"}])
    assert _chat(ServedModel("m", "stub"), messages=[{"role": "user", "content": "<|im_end|>"}])


def test_a_gap_is_written_with_the_models_own_tokens():
    assert _completion(prompt="def f(", suffix="return")["prompt"] == "<P>def f(<S>return<M>"
    assert _completion(prompt="<|im_start|>raw")["prompt"] == "<|im_start|>raw"
    for fields in ({"prompt": "<M>", "suffix": ""}, {"prompt": "", "suffix": "<|im_end|>"}):
        with pytest.raises(RequestError, match="a mark of its own"):
            _completion(**fields)
    for vocabulary in (None, Vocabulary()):
        with pytest.raises(RequestError, match="cannot fill gaps"):
            _completion(ServedModel("m", "file", vocabulary=vocabulary), prompt="", suffix="x")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (ServedModel("m", "file", vocabulary=Vocabulary()), "its vocabulary has no tokens for it"),
        (endpoint_model(EndpointSpec("afar", "https://afar.example/v1", "big")), "not known here"),
        (stub_model(), "a stub and not a model"),
    ],
)
def test_a_gap_is_refused_with_the_reason_that_is_true(model, reason):
    with pytest.raises(RequestError, match=reason):
        _completion(model, prompt="", suffix="x")


def test_an_answer_says_who_gave_it_and_nothing_else_of_the_engines():
    shown = chat.present(Attempt(MODEL), {"id": "1", "model": "/srv/x.gguf", "choices": [], "__verbose": 1})

    assert shown == {
        "id": "1",
        "choices": [],
        "model": "m",
        "system_fingerprint": "file-aaaaaaaaaaaa+adapter-bbbbbbbbbbbb",
    }


def test_headers_name_who_answered_instead_and_what_was_ignored():
    away = endpoint_model(EndpointSpec("afar", "https://afar.example/v1", "big"))

    assert chat.answer_headers(Attempt(MODEL), []) == {"x-answered-by": "m", "x-answered-where": "local"}
    headers = chat.answer_headers(Attempt(away, "m"), ["a", "b\r\nc", "ü" * 500])
    assert headers["x-answered-where"] == "endpoint"
    assert headers["x-instead-of"] == "m"
    assert headers["x-ignored-params"].startswith("a,bc,??")
    assert len(headers["x-ignored-params"]) == 400


@pytest.mark.parametrize(
    ("url", "model", "stays"),
    [
        ("http://127.0.0.1:11434/v1", "llama3.2", True),
        ("http://127.8.8.8/v1", "m", True),
        ("http://[::1]:1234/v1", "m", True),
        ("http://LOCALHOST:8000/v1", "m", True),
        ("http://user@localhost/v1", "m", True),
        ("http://localhost:11434/v1", "gpt-oss:120b-cloud", False),
        ("http://localhost@afar.example/v1", "m", False),
        ("http://localhost.afar.example/v1", "m", False),
        ("http://127.0.0.1.afar.example/v1", "m", False),
        ("http://192.168.1.5:11434/v1", "m", False),
        ("http://0.0.0.0:8000/v1", "m", False),
        ("http://[::1:bad/v1", "m", False),
        ("https://afar.example/v1", "m", False),
    ],
)
def test_identity_says_what_leaves_the_machine(url, model, stays):
    other = endpoint_model(EndpointSpec("other", url, model))

    assert ("on this machine" in describe(other.provenance)) == stays
    assert ("leaves this machine" in describe(other.provenance)) != stays
    assert chat.where(other) == "endpoint"


def test_identity_says_what_is_here_and_what_is_no_model():
    assert "on this machine" in describe(MODEL.provenance)
    assert "not a model" in describe(stub_model().provenance)
