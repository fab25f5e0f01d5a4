import numpy as np
import pytest

from factory.chat.template import conversation, render
from factory.weights import parity
from factory.weights.conversations import load_tokenizer
from factory.weights.gguf_model import GgufModel, log_softmax
from tests.tiny import rewrite_gguf


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def model(tiny_base):
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as opened:
        yield opened


@pytest.mark.parametrize("text", parity.HARD_TEXTS, ids=range(len(parity.HARD_TEXTS)))
def test_hard_texts_have_the_tokenizers_ids(tokenizer, model, text):
    assert model.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


# Written out, so that a change of both sides at once shows too.
SPECIAL_CASES = {
    "": [],
    "7": [25],
    "4711": [22, 25, 19, 19],
    "a  b": [67, 223, 223, 68],
    "\t\n": [200, 201],
    "\u00a0": [129, 257],
    "😀": [175, 256, 249, 225],
    "é": [130, 105],
    "e\u0301": [71, 139, 226],
    "<|im_start|>": [1],
    "<|im_end|>\n": [2, 201],
    "<|endoftext|>": [0],
}


@pytest.mark.parametrize("text", SPECIAL_CASES)
def test_special_cases_have_these_ids(tokenizer, model, text):
    assert model.tokenize(text) == SPECIAL_CASES[text]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == SPECIAL_CASES[text]


def test_conversations_cover_system_turns_and_several_turns(tokenizer, model):
    texts = parity.hard_texts(tokenizer, "Be kind.")

    assert any("<|im_start|>system\nBe kind." in text for text in texts)
    assert any(not text.startswith("<|im_start|>system") for text in texts)
    assert any(text.count("<|im_start|>user") > 1 for text in texts)
    assert parity.unequal_tokens(tokenizer, model, texts) == []


def test_a_lost_merge_shows(tokenizer, tiny_base, tmp_path):
    with GgufModel(tiny_base / "base-F16.gguf", threads=1) as model:
        assert len(model.tokenize("user")) == 1
    from gguf import GGUFReader

    merges = GGUFReader(tiny_base / "base-F16.gguf").get_field("tokenizer.ggml.merges").contents()
    broken = rewrite_gguf(
        tiny_base / "base-F16.gguf", tmp_path / "x.gguf", keys={"tokenizer.ggml.merges": merges[:10]}
    )
    with GgufModel(broken, threads=1) as model:
        unequal = parity.unequal_tokens(tokenizer, model, parity.hard_texts(tokenizer, ""))
    assert unequal


def test_doubled_openings_are_counted_as_a_server_would_make_them(tokenizer, tiny_base, tmp_path):
    prompts = [render(tokenizer, conversation(question)) for question in ("One?", "Two?")]
    opening = {"tokenizer.ggml.add_bos_token": True}
    adds = rewrite_gguf(tiny_base / "base-F16.gguf", tmp_path / "x.gguf", keys=opening)
    with GgufModel(adds, threads=1) as model:
        assert model.tokenize(prompts[0], as_server=True)[:2] == [1, 1]
        assert parity.doubled_bos(model, prompts) == 0
        assert parity.doubled_bos(model, ["<|im_start|>" + prompts[0], prompts[1]]) == 1


def test_differences_and_divergences_are_what_their_names_say():
    generator = np.random.default_rng(0)
    reference = log_softmax(generator.normal(size=(6, 50)).astype(np.float32))
    other = log_softmax(reference + generator.normal(scale=0.1, size=(6, 50)).astype(np.float32))

    assert parity.top_differences(reference, reference).tolist() == [0] * 6
    assert np.allclose(parity.kl_divergences(reference, reference), 0)
    assert parity.same_top(reference, reference).all()
    shifted = reference.copy()
    best = reference[2].argsort()
    shifted[2, best[-5]] += 0.25
    shifted[3, best[0]] += 9
    assert parity.top_differences(reference, shifted)[2] == pytest.approx(0.25, abs=1e-5)
    assert parity.top_differences(reference, shifted)[0] == 0
    expected = (np.exp(reference) * (reference - other)).sum(-1)
    assert np.allclose(parity.kl_divergences(reference, other), expected, atol=1e-6)
    assert (parity.kl_divergences(reference, other) > 0).all()
