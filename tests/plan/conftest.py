"""A base of SmolLM2-135M's shape without weights, and runs of a tiny recipe on it."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from factory import store
from factory.pipeline import Run
from factory.plan import build
from factory.recipe import load_recipe
from factory.rows import Example, Message

SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def base(tmp_path):
    """The folder of a base with SmolLM2-135M's shape and a tokenizer that makes a token of every word."""
    folder = tmp_path / "base"
    folder.mkdir()
    store.write_json(folder / "config.json", SMOLLM2)
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def make_run(tmp_path, base, monkeypatch):
    """Return a function that opens a run of a tiny recipe without loading a model or measuring the machine."""
    monkeypatch.setattr(build, "probe_flops", lambda train=None: 1e11)
    monkeypatch.setattr(build, "probe_training", lambda *arguments: None)
    monkeypatch.setattr(build, "probe_answers", lambda recipe, tokens: None)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x" * 8000)
    (tmp_path / "tiny.yaml").write_text("name: tiny\ningest:\n  source: docs\n")

    def make(*overrides):
        run = Run(load_recipe(tmp_path / "tiny.yaml", list(overrides)), tmp_path / "out", print)
        run._base = SimpleNamespace(name="tiny-base", sha256="0" * 64, folder=base)
        return run

    return make


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    from tests.tiny import make_tiny_base

    return make_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def example():
    """Return a function that makes a row of so many words in the question and two in the answer."""

    def make(number, fact, words=4):
        messages = (
            Message(role="user", content="w " * words),
            Message(role="assistant", content="one two"),
        )
        return Example(id=str(number), form="x", messages=messages, facts=(fact,) if fact else ())

    return make
