"""The endpoint backend against a real HTTP server on loopback: what it sends, and every way it can be let down."""

from collections.abc import Iterator

import httpx
import pytest

from factory.backends.endpoint import EndpointBackend
from factory.backends.registry import TeacherConfig
from factory.chat.template import conversation
from factory.errors import BackendError
from tests.backends.chat_stub import ChatStub, running_stub


@pytest.fixture
def stub() -> Iterator[ChatStub]:
    with running_stub() as server:
        yield server


@pytest.fixture
def ask(stub: ChatStub, monkeypatch):
    """Return a function that sends one question to the stub."""
    monkeypatch.setenv("STUB_KEY", "s3cret")
    with httpx.Client(timeout=5, trust_env=False) as client:
        backend = EndpointBackend(TeacherConfig(url=stub.url + "/", model="m1"), client)
        yield lambda: backend.chat(conversation("At how many bar?", system="Be short."), max_tokens=7)


def test_a_chat_is_posted_in_openais_shape_and_its_answer_returned(stub: ChatStub, ask) -> None:
    assert ask() == "12 bar"
    ((path, _, body),) = stub.seen
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m1",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "At how many bar?"},
        ],
        "max_tokens": 7,
        "temperature": 0,
    }


def test_a_schema_goes_along_and_a_refusal_says_that_it_may_be_why(stub: ChatStub) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    with httpx.Client(timeout=5, trust_env=False) as client:
        backend = EndpointBackend(TeacherConfig(url=stub.url, model="m1"), client)
        backend.chat(conversation("Hi"), max_tokens=1, schema=schema)
        stub.status = 400
        with pytest.raises(BackendError, match=r"answered 400.*JSON schema \(`response_format`\)"):
            backend.chat(conversation("Hi"), max_tokens=1, schema=schema)
    assert stub.seen[0][2]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }


@pytest.mark.parametrize(("key_env", "header"), [("STUB_KEY", "Bearer s3cret"), ("", None)])
def test_the_key_comes_from_the_variable_that_is_named(stub: ChatStub, monkeypatch, key_env, header) -> None:
    monkeypatch.setenv("STUB_KEY", "s3cret")
    backend = EndpointBackend(TeacherConfig(url=stub.url, model="m1", key_env=key_env))
    backend.chat(conversation("Hi"), max_tokens=1)
    backend._client.close()
    assert stub.seen[0][1].get("Authorization") == header


def test_an_empty_key_is_refused_before_anything_is_sent(stub: ChatStub, monkeypatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(BackendError, match="NO_KEY is empty"):
        EndpointBackend(TeacherConfig(url=stub.url, model="m1", key_env="NO_KEY"))
    assert stub.seen == []


@pytest.mark.parametrize("status", [301, 401, 404, 429, 500, 503])
def test_a_refusal_names_its_status_and_not_the_key(stub: ChatStub, monkeypatch, status: int) -> None:
    monkeypatch.setenv("STUB_KEY", "s3cret")
    stub.status, stub.body = status, b"s3cret"
    backend = EndpointBackend(TeacherConfig(url=stub.url, model="m1", key_env="STUB_KEY"))
    with pytest.raises(BackendError, match=f"answered {status}") as caught:
        backend.chat(conversation("Hi"), max_tokens=1)
    backend._client.close()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{}]}',
     b'{"choices": [{"message": 1}]}',
     b'{"choices": [{"message": {"content": [{"text": "x"}]}}]}', b"\xff\xfe"],
)  # fmt: skip
def test_another_shape_is_refused(stub: ChatStub, ask, body: bytes) -> None:
    stub.body = body
    with pytest.raises(BackendError, match="another shape"):
        ask()


def test_an_answer_without_text_is_empty(stub: ChatStub, ask) -> None:
    stub.body = b'{"choices": [{"message": {"content": null}}]}'
    assert ask() == ""


def test_a_server_that_is_not_there_or_too_slow_is_told_apart_from_a_refusal(stub: ChatStub) -> None:
    with httpx.Client(timeout=5, trust_env=False) as client:
        backend = EndpointBackend(TeacherConfig(url="http://127.0.0.1:1/v1", model="m"), client)
        with pytest.raises(BackendError, match="cannot be reached"):
            backend.chat(conversation("Hi"), max_tokens=1)
    slow = httpx.MockTransport(
        lambda request: (_ for _ in ()).throw(httpx.ReadTimeout("slow", request=request))
    )
    with httpx.Client(transport=slow) as client:
        backend = EndpointBackend(TeacherConfig(url=stub.url, model="m"), client)
        with pytest.raises(BackendError, match="cannot be reached"):
            backend.chat(conversation("Hi"), max_tokens=1)


def test_an_address_that_is_none_is_refused() -> None:
    with httpx.Client(trust_env=False) as client:
        backend = EndpointBackend(TeacherConfig(url="http://[bad/v1", model="m"), client)
        with pytest.raises(BackendError, match="cannot be reached"):
            backend.chat(conversation("Hi"), max_tokens=1)
