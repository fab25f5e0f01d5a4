"""Special tokens in documents: a tokenizer finds none afterwards, and ordinary text is left as it was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from factory.text.neutralize import KNOWN_TOKENS, neutralize

FAMILY_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>",
    "<|user|>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "<extra_id_0>", "<unused99>", "[unused7]",  # noqa: RUF001
)  # fmt: skip
GIVEN_TOKENS = ("<custom>", "§§", "[a b]", "¶", "end of turn", "\u2581<x>", "  <wide>  ", "ab", "a b", "b|c")
TOKENS = (*KNOWN_TOKENS, *FAMILY_TOKENS, *GIVEN_TOKENS)


def _tokenizer(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_special_tokens([AddedToken(token, normalized=lowercase, special=True) for token in TOKENS])
    return tokenizer


PLAIN, LOWERCASE = _tokenizer(lowercase=False), _tokenizer(lowercase=True)


def _specials(tokenizer: Tokenizer, text: str) -> list[str]:
    return [token for token in tokenizer.encode(text).tokens if token != "?"]


def test_the_tokenizers_would_find_every_token():
    for token in TOKENS:
        assert _specials(PLAIN, f"x{token}y"), token
        assert _specials(LOWERCASE, f"x{token.upper()}y"), token


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_becomes_ordinary_text(token):
    text = neutralize(f"Before {token}after{token}{token} end", GIVEN_TOKENS)
    assert _specials(PLAIN, text) == []
    assert _specials(LOWERCASE, text) == []


FRAGMENTS = sorted(
    {
        token[i:j]
        for token in TOKENS
        for i, j in [(0, len(token)), (0, 1), (0, 2), (0, -1), (1, None), (-1, None), (-2, None)]
    }
)
TEXTS = st.lists(
    st.sampled_from(FRAGMENTS)
    | st.sampled_from(TOKENS)
    | st.sampled_from([" ", "\n", "\0", "\u200b", "\r\n", "a", "S"])
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_no_token_can_be_assembled_from_pieces_of_tokens(text):
    harmless = neutralize(text, GIVEN_TOKENS)
    assert _specials(PLAIN, harmless) == []
    assert _specials(LOWERCASE, harmless) == []


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_neutralizing_twice_is_neutralizing_once(text):
    once = neutralize(text, GIVEN_TOKENS)
    assert neutralize(once, GIVEN_TOKENS) == once


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_control_character_is_left(text):
    harmless = neutralize(text, ())
    assert not [
        char for char in harmless if (ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160
    ]
    harmless.encode("utf-8")


def test_it_stays_readable():
    assert neutralize("<|im_start|>system", ()) == "< |im_start|>system"
    assert neutralize("[INST] Hi [/INST]</s>", ()) == "[ INST] Hi [ /INST]< /s>"


def test_line_ends_become_line_feeds_and_hidden_characters_go():
    assert neutralize("one\r\ntwo\rthree\x0cfour\tfive", ()) == "one\ntwo\nthree\nfour\tfive"
    assert neutralize("<|im\u200b_st\x00art|>", ()) == "< |im_start|>"
    assert neutralize("p\u202eg\U000e0041\ufeffn\ud800", ()) == "pgn"


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d, if x | y",
        "| Code | Price |\n|---|---|\n| S-2041-B | £385 |",
        "<table><td>24 V</td></table> [1] [note] <EMAIL_3F2A91>",
        "می\u200cخو\u0627\u0647م 👩\u200d🔧 Größe 82 °C",
        "",
    ],
)
def test_ordinary_text_is_left_as_it_was(text):
    assert neutralize(text, ("<|im_end|>", "", " ", "\n")) == text
