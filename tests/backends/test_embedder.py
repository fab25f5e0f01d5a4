"""The sentence encoder: unit vectors, near for near texts, the same alone and in a batch."""

import math

import pytest

from factory.backends import embedder
from factory.backends.embedder import BATCH, Embedder
from factory.errors import MissingExtraError


@pytest.fixture(scope="module")
def encoder():
    return Embedder()


def _dot(one, other):
    return sum(x * y for x, y in zip(one, other, strict=True))


def test_near_texts_are_nearer_than_others(encoder):
    (cat, kitten, stocks), num_tokens = encoder.embed(
        ["A cat sat on the mat.", "A kitten sits on a rug.", "Stock prices fell."]
    )
    assert len(cat) == 384
    assert math.isclose(_dot(cat, cat), 1, abs_tol=1e-5)
    assert _dot(cat, kitten) > _dot(cat, stocks) + 0.3
    assert num_tokens > 15


def test_a_text_has_the_same_vector_alone_and_among_others(encoder):
    texts = [f"Gate {number} has the code {number * 37}." for number in range(BATCH + 3)]
    together, _ = encoder.embed(texts)
    (alone,), _ = encoder.embed(texts[-1:])
    assert max(abs(x - y) for x, y in zip(alone, together[-1], strict=True)) < 1e-4


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(embedder, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"adapter-factory\[embeddings\]"):
        Embedder().embed(["x"])
