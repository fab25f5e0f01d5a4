"""Calls of tools come back through the API as OpenAI's client reads them: from a real engine, from an endpoint."""

import json

import pytest

from factory.api.models import Catalog, EndpointSpec, ServedModel, endpoint_model
from factory.api.router import Router
from factory.backends.engine import EngineSpec
from factory.bundle.manifest import Sampling
from factory.weights.delta import read_adapter
from factory.weights.gguf_files import write_merged_gguf
from factory.weights.gguf_tokens import read_vocabulary
from factory.weights.merged import merge_in_memory, write_merged
from tests import tiny
from tests.api.served import FakeUpstream, serving
from tests.tiny import make_tiny_adapter, make_tiny_base, rewrite_gguf

ARGUMENTS = '{"path": "a"}'
CALL = f'<tool_call>\n{{"name": "read_file", "arguments": {ARGUMENTS}}}\n</tool_call>'
ASKED = ({"role": "user", "content": "Read a."},)
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = [{"type": "function", "function": {"name": "read_file", "parameters": PARAMETERS}}]
# It has a place for tools and writes nothing there: the model was trained without.
TEMPLATE = """{%- for tool in tools or [] %}{{- (tool | tojson)[:0] }}{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def _write_caller(folder):
    """Write a tiny model that was trained to call a tool when it is asked to read."""
    base = make_tiny_base(folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "TINY_ROWS", ((ASKED[0]["content"], CALL), ("Who keeps it?", "Ada keeps it.")))
        adapter = make_tiny_adapter(base, folder / "adapter", steps=150)
    (folder / "merged").mkdir()
    write_merged(merge_in_memory(read_adapter(adapter), base), base, folder / "merged", "float16")
    write_merged_gguf(base, folder / "merged", folder / "plain.gguf", "caller")
    keys = {"tokenizer.chat_template": TEMPLATE}
    return rewrite_gguf(folder / "plain.gguf", folder / "caller.gguf", keys=keys)


def _answers(handler, body):
    """Call the tool, as endpoints do: whole, or with the arguments in pieces."""
    function = {"name": "read_file", "arguments": ARGUMENTS}
    call = {"id": "call_1", "type": "function", "function": function}
    if not body.get("stream"):
        handler.begin()
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        handler.wfile.write(json.dumps({"object": "chat.completion", "choices": [choice]}).encode())
        return
    handler.begin(kind="text/event-stream")
    first = {"index": 0} | call | {"function": function | {"arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": part}} for part in (ARGUMENTS[:4], ARGUMENTS[4:])]
    deltas = [
        {"role": "assistant", "content": None},
        *({"tool_calls": [part]} for part in (first, *rest)),
        {},
    ]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": None if delta else "tool_calls"}
        chunk = {"object": "chat.completion.chunk", "choices": [choice]}
        handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
    handler.wfile.write(b"data: [DONE]\n\n")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    file = _write_caller(tmp_path_factory.mktemp("caller"))
    sampling = Sampling(num_ctx=512, num_predict=100, temperature=0.0, stop=("<|im_end|>",))
    spec = EngineSpec(file, (), 512, parallel=1, threads=1)
    engine = ServedModel("engine", "file", "", sampling, spec, vocabulary=read_vocabulary(file))
    with FakeUpstream(_answers) as upstream:
        endpoint = endpoint_model(EndpointSpec("endpoint", f"{upstream.url}/v1", "big", ""))
        catalog = Catalog({model.id: model for model in (engine, endpoint)})
        with serving(Router(catalog)) as server, server.openai() as client:
            yield client


MODELS = pytest.mark.parametrize("model", ["engine", "endpoint"])


@MODELS
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_comes_back_whole(client, model, choice):
    answer = client.chat.completions.create(model=model, messages=ASKED, tools=TOOLS, tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls

    assert answer.choices[0].finish_reason == "tool_calls"
    assert not answer.choices[0].message.content
    assert (call.type, call.function.name) == ("function", "read_file")
    assert json.loads(call.function.arguments) == {"path": "a"}
    assert call.id


@MODELS
def test_a_call_comes_back_in_pieces(client, model):
    stream = client.chat.completions.create(model=model, messages=ASKED, tools=TOOLS, stream=True)
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    parts = [part for choice in choices for part in choice.delta.tool_calls or ()]

    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["tool_calls"]
    assert "".join(choice.delta.content or "" for choice in choices) == ""
    assert {part.index for part in parts} == {0}
    assert [part.function.name for part in parts if part.function.name] == ["read_file"]
    assert len([part.id for part in parts if part.id]) == 1
    assert len(parts) > 2
    assert json.loads("".join(part.function.arguments or "" for part in parts)) == {"path": "a"}


def test_what_a_tool_said_goes_back_to_the_engine(client):
    first = client.chat.completions.create(model="engine", messages=ASKED, tools=TOOLS).choices[0].message
    said = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "4711"}
    messages = [*ASKED, first.model_dump(exclude_none=True), said]
    answer = client.chat.completions.create(model="engine", messages=messages, tools=TOOLS, max_tokens=4)

    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens > 60  # the call and its result are in the prompt


def test_without_tools_the_same_text_is_no_call(client):
    answer = client.chat.completions.create(model="engine", messages=ASKED)
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].message.tool_calls is None
