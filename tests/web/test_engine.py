"""The models behind the playground: a real file is asked as its template says, and long chats lose their beginning."""

from types import SimpleNamespace

import pytest

from factory import hardware
from factory.bundle.manifest import Sampling
from factory.chat.template import conversation
from factory.errors import UsageError
from factory.rows import Message
from factory.web.engine import GgufStreamer, ModelFile
from tests.tiny import CHATML, make_tiny_base, rewrite_gguf


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "num_cores", lambda: 1)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> ModelFile:
    """A file whose template opens with a token, and a context of 256 tokens of which 160 are for the answer."""
    folder = tmp_path_factory.mktemp("engine")
    keys = {"tokenizer.chat_template": "{{ bos_token }}" + CHATML, "tokenizer.ggml.bos_token_id": 0}
    path = rewrite_gguf(make_tiny_base(folder / "base") / "base-F16.gguf", folder / "x.gguf", keys=keys)
    sampling = Sampling(num_ctx=256, num_predict=160, temperature=0.0, stop=())
    return ModelFile("x", path, "0" * 64, SimpleNamespace(sampling=sampling))


def test_the_opening_token_of_the_file_comes_first_and_once(file: ModelFile) -> None:
    streamer = GgufStreamer(file)
    prompt = streamer._prompt(list(conversation("Hi")))
    assert prompt[:2] == [0, 1]
    assert prompt.count(0) == 1
    streamer.close()


def test_the_oldest_turns_give_way_and_a_question_too_long_is_refused(file: ModelFile) -> None:
    streamer = GgufStreamer(file)
    turns = [Message(role=("user", "assistant")[i % 2], content=f"turn {i}") for i in range(9)]
    chat = [Message(role="system", content="Be brief."), *turns]
    shown = streamer._model.detokenize(streamer._prompt(list(chat)))
    assert "Be brief." in shown
    assert "turn 8" in shown
    assert "turn 0" not in shown
    with pytest.raises(UsageError, match="tokens, 96 fit: shorten it"):
        streamer._prompt(list(conversation("long " * 100)))
    streamer.close()
