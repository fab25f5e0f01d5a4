"""The engine without llama.cpp's own server: the same routes, adapters by request, streams, a key."""

import json
import subprocess
import sys

import httpx
import pytest

from factory import store
from factory.backends.engine import child_environment
from factory.weights.delta import read_adapter
from factory.weights.gguf_files import write_adapter_gguf
from tests.tiny import make_tiny_adapter, make_tiny_base

WITHOUT_SERVER = (
    "import sys; sys.modules['xllamacpp'] = None; from factory.backends.engine_child import main; main()"
)
ASKED = {"messages": [{"role": "user", "content": "Who keeps the key?"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A client of a child that cannot import xllamacpp, with one adapter on a tiny base."""
    folder = tmp_path_factory.mktemp("fallback")
    base = make_tiny_base(folder / "base")
    adapter = make_tiny_adapter(base, folder / "adapter", strength=1.0)
    identity = store.read_json(base / "base.json")["sha256"]
    write_adapter_gguf(read_adapter(adapter), base, folder / "adapter.gguf", "tiny", identity)
    spec = {"model": str(base / "base-F16.gguf"), "adapters": [str(folder / "adapter.gguf")]}
    spec |= {"num_ctx": 256, "parallel": 1, "threads": 1, "key": "secret"}
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


def test_a_stream_says_the_same_and_ends_with_its_mark(engine):
    whole = _ask(engine, 1.0).json()["choices"][0]["message"]["content"]
    lines = [line for line in _ask(engine, 1.0, stream=True).text.split("\n") if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole


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
