"""Answers held to a grammar: the likeliest token that it allows, whatever the model would rather say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import EvaluateError
from factory.weights.gguf_grammar import Grammar
from factory.weights.gguf_model import GgufModel

CHOICE = 'root ::= "ab" | "ac" | "b" "c"+'


@pytest.fixture(scope="module")
def model(tiny_base):
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as opened:
        yield opened


def say(model: GgufModel, grammar: str, rows: np.ndarray) -> tuple[str, bool]:
    """Return what the grammar lets stand of rows of logits, and whether it came to an end."""
    said: list[int] = []
    with Grammar(model._vocab, grammar) as rules:
        for row in rows:
            token = rules.take(row)
            if model.is_end(token):
                return model.detokenize(said), True
            said.append(token)
    return model.detokenize(said), False


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_logits_make_a_sentence_of_the_grammar(model, seed):
    rows = np.random.default_rng(seed).normal(size=(12, model.vocab_size)).astype(np.float32)
    text, ended = say(model, CHOICE, rows)
    assert text in {"ab", "ac"} or (text[0] == "b" and set(text[1:]) == {"c"})
    assert ended or len(text) == 12 or text.startswith("bc")


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_of_what_is_allowed_the_likeliest_is_taken(model, seed):
    row = np.random.default_rng(seed).normal(size=model.vocab_size).astype(np.float32)
    beginnings = [token for token in range(model.vocab_size) if model.detokenize([token]) in {"a", "b", "c"}]
    assert len(beginnings) == 3
    with Grammar(model._vocab, 'root ::= [abc] "!"') as rules:
        assert rules.take(row) == max(beginnings, key=lambda token: row[token])


def test_a_likeliest_token_that_is_allowed_is_taken_at_once(model):
    (token,) = model.tokenize("a")
    row = np.zeros(model.vocab_size, dtype=np.float32)
    row[token] = 1.0
    with Grammar(model._vocab, 'root ::= "a"') as rules:
        assert rules.take(row) == token
        assert model.is_end(rules.take(row))


@pytest.mark.parametrize("grammar", ['start ::= "a"', 'root ::= "a'])
def test_a_grammar_that_llama_cpp_cannot_read_is_refused(model, grammar):
    with pytest.raises(EvaluateError, match="cannot read the grammar"):
        Grammar(model._vocab, grammar)
