"""Bodies in the shapes that programs send: each gets an answer, and what nobody reads is named."""

import json

import httpx
import pytest

from tests.api.served import KEY, QUESTION, events

USER = {"role": "user", "content": QUESTION}
FUNCTION = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ_FILE = {"name": "read_file", "description": "Reads a file.", "parameters": FUNCTION}
OPEN_WEBUI = {
    "model": "gate",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "metadata": {"chat_id": "1", "features": {}},
    "chat_id": "1",
    "files": None,
    "background_tasks": {"title_generation": True},
}
ZED = {
    "model": "gate",
    "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 64,
    "stop": [],
    "temperature": 0.0,
    "tools": [],
    "parallel_tool_calls": False,
    "prompt_cache_key": "thread",
    "reasoning_effort": None,
}
AIDER = {
    "model": "gate",
    "temperature": 0,
    "stream": True,
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}],
        }
    ],
    "extra_body": {"num_ctx": 8192},
}
CONTINUE = {
    "model": "gate",
    "messages": [USER],
    "max_tokens": 128,
    "temperature": 0.01,
    "stop": ["\n\n\n"],
    "stream": True,
    "prediction": None,
    "top_p": None,
}
LANGCHAIN = {
    "model": "gate",
    "messages": [{"role": "user", "content": QUESTION, "name": None}],
    "n": 1,
    "stream": True,
    "temperature": 0.0,
    "logprobs": False,
}
BODIES = {
    "open_webui": (OPEN_WEBUI, "background_tasks,chat_id,metadata"),
    "zed": (ZED, "prompt_cache_key"),
    "aider": (AIDER, "extra_body"),
    "continue": (CONTINUE, None),
    "langchain": (LANGCHAIN, None),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_chat_of_a_program_is_answered(http, name):
    body, ignored = BODIES[name]
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        got = events(response)
    chunks = [json.loads(event) for event in got[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])

    assert got[-1] == "[DONE]"
    assert text == "The code is 4711."
    assert response.headers.get("x-ignored-params") == ignored
    assert ("usage" in chunks[-1] and chunks[-1]["choices"] == []) == ("stream_options" in body)
    whole = http.post("/v1/chat/completions", json={**body, "stream": False, "stream_options": None})
    assert whole.json()["choices"][0]["message"]["content"] == text


def test_autocompletion_over_the_older_route_is_answered(http):
    body = {
        "model": "gate",
        "prompt": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nThe",
        "max_tokens": 64,
        "temperature": 0.01,
        "stop": ["\n", "<|im_end|>"],
        "stream": True,
        "frequency_penalty": 0,
    }
    with http.stream("POST", "/v1/completions", json=body) as response:
        texts = [json.loads(event)["choices"][0]["text"] for event in events(response)[:-1]]

    assert "".join(texts) == " code is 4711."


def _agent(**more):
    call = {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a"}'}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "4711"},
    ]
    tools = [{"type": "function", "function": READ_FILE}]
    return {"model": "gate", "messages": messages, "tools": tools, "max_tokens": 8} | more


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_an_agent_is_answered_by_a_model_without_tools_and_told_that_nobody_read_them(http, choice):
    answer = http.post("/v1/chat/completions", json=_agent(tool_choice=choice, user="ada"))

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.headers["x-ignored-params"] == "tools,user"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "read_file"}}])
def test_a_tool_that_must_be_called_is_refused_by_a_model_without_tools(http, choice):
    answer = http.post("/v1/chat/completions", json=_agent(tool_choice=choice))

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tool_choice"
    assert "cannot call tools" in answer.json()["error"]["message"]


def test_a_model_picker_lists_models_with_either_form_of_key(server):
    url = f"{server.url}/v1/models"
    bearer = httpx.get(url, headers={"Authorization": f"bearer  {KEY}"}, trust_env=False)
    basic = httpx.get(url, auth=("anyone", KEY), trust_env=False)

    assert bearer.json() == basic.json()
    assert {"id", "object", "created", "owned_by"} <= set(basic.json()["data"][0])
