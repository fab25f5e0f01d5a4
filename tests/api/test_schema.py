import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.api import schema
from factory.api.errors import RequestError
from factory.api.schema import ChatRequest, CompletionRequest, parse_json, read

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def _tried(function, *args):
    """Return what a function returns, or the refusal."""
    try:
        return function(*args)
    except RequestError as error:
        return error


@given(JSON)
def test_what_is_parsed_can_be_sent_on(value):
    body = _tried(parse_json, json.dumps({"x": value}).encode())
    if isinstance(body, dict):
        assert json.dumps(body, ensure_ascii=False, allow_nan=False).encode()


@given(st.dictionaries(st.sampled_from([*ChatRequest.model_fields, "lora", "x"]), JSON, max_size=6))
def test_any_body_is_read_or_refused_with_a_field(body):
    for kind in (ChatRequest, CompletionRequest):
        result = _tried(read, kind, BODY | {"prompt": "x"} | body)
        if isinstance(result, RequestError):
            assert result.param
        else:
            assert "lora" not in result[0].settings()
            assert set(result[1]) <= {"lora", "x", "prompt", *ChatRequest.model_fields}


@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_refused(data):
    assert isinstance(_tried(parse_json, data), dict | RequestError)


def test_depth_is_counted_in_objects_and_lists():
    def nested(levels):
        return b'{"a":' * (levels - 1) + b"{}" + b"}" * (levels - 1)

    assert parse_json(nested(schema.MAX_DEPTH))
    with pytest.raises(RequestError, match="deeper than 32"):
        parse_json(nested(schema.MAX_DEPTH + 1))
    with pytest.raises(RequestError, match="deeper than 32"):
        parse_json(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}")


def test_parts_are_joined_and_developer_is_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}]
    request, _ = read(
        ChatRequest, BODY | {"messages": [{"role": "developer", "content": parts, "name": "x"}]}
    )

    assert [message.for_engine() for message in request.messages] == [{"role": "system", "content": "ab"}]


def test_a_called_tool_keeps_its_call_and_an_empty_content():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
    ]
    request, _ = read(ChatRequest, BODY | {"messages": turns})

    assert request.messages[0].for_engine() == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert request.messages[1].for_engine()["tool_call_id"] == "c"


def test_only_what_was_given_goes_on_and_the_newer_limit_wins():
    request, ignored = read(
        ChatRequest,
        BODY | {"max_tokens": 5, "max_completion_tokens": 7, "seed": 3, "user": "u", "stop": None},
    )

    assert request.settings() == {"max_tokens": 7, "seed": 3}
    assert ignored == ["user"]
    assert read(CompletionRequest, {"model": "m", "prompt": ["x"], "logprobs": 0})[0].settings() == {
        "logprobs": 0
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", -0.1),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repeat_penalty", 0),
        ("seed", 2**32),
        ("max_tokens", schema.MAX_TOKENS + 1),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("top_logprobs", 21),
        ("n", 0),
        ("model", ""),
        ("model", "m" * 201),
        ("messages", [{"role": "user", "content": "x"}] * 513),
        ("messages", [{"role": "ghost", "content": "x"}]),
        ("response_format", {"type": "json_schema", "json_schema": "x"}),
        ("response_format", {"type": []}),
        ("tools", [{"type": "function", "function": {"name": "y" * 70_000}}]),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "x", "function": {"name": "f"}}]),
        ("tools", [{"type": "function", "function": {"description": "x"}}]),
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": "x"}}]),
        ("tool_choice", "maybe"),
    ],
)
def test_limits_hold(field, value):
    with pytest.raises(RequestError) as caught:
        read(ChatRequest, BODY | {field: value})
    assert caught.value.param.split(".")[0] in {field, "body"}


def test_more_than_one_prompt_or_an_echo_is_refused():
    for more in ({"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": "a", "echo": True}, {}):
        with pytest.raises(RequestError):
            read(CompletionRequest, {"model": "m"} | more)
