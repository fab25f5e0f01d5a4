"""What makes a word a secret: the limits of its shape, where it stands again, and lines of any length.

The keys below are put together from parts, so that a scanner for secrets finds none here; they open nothing.
"""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.credentials import entropy, is_password, is_token, secret_spans

PASSWORD = "tr0ub4" + "dor"


def _found(text: str) -> list[str]:
    return sorted({text[start:end] for start, end in secret_spans(text)})


@pytest.mark.parametrize(
    ("text", "bits"), [("aaaa", 0), ("abab", 1), ("abcd", 2), ("aab", math.log2(3) - 2 / 3), ("", 0)]
)
def test_entropy_is_in_bits_a_character(text: str, bits: float) -> None:
    assert entropy(text) == pytest.approx(bits)


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=30))
def test_entropy_depends_on_shares_only_and_is_highest_for_even_ones(text: str) -> None:
    assert entropy(text) == pytest.approx(entropy(text[::-1] * 3))
    assert entropy(text) <= math.log2(len(set(text))) + 1e-9


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("ab12c!", True),
        ("ab1c!", False),  # five characters
        ("winter", False),
        ("20261234", False),  # no letter
        ("winter is 2 cold", False),
        ("correct-horse-battery-staple", True),
        ("correct-horse-battery", False),  # three words name a thing
        ("settings.DB1_PASS", False),
        ("get_password(1)", False),
        ("xxxx1234", False),
    ],
)
def test_a_password_mixes_letters_with_digits_or_is_four_words(value: str, is_one: bool) -> None:
    assert is_password(value) is is_one


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("a1B2c3D4" + "e5F6g7H8", True),
        ("a1B2c3D4" + "e5F6g7H", False),  # 15 characters
        ("a1b2c3d4" * 2, True),  # eight signs, each as often: 3 bits
        ("a1b2c3d" * 2 + "a1", False),  # seven signs: below 3 bits
        ("4155552671" * 2, False),
        ("internationalisation", False),
        ("the-2026-founders-saturday-cake", False),
    ],
)
def test_a_token_is_16_characters_of_three_bits_that_change_their_kind(value: str, is_one: bool) -> None:
    assert is_token(value) is is_one


def test_a_secret_found_again_is_a_whole_word_and_the_longest_that_fits() -> None:
    longer = PASSWORD + "-two2"
    text = f"password: {PASSWORD}\npassword: {longer}\nx{PASSWORD} is another word."
    assert _found(text) == [PASSWORD, longer]
    assert sorted(set(secret_spans(text))) == [(10, 19), (30, 44)]


def test_a_secret_is_found_in_a_line_of_any_length_in_little_time() -> None:
    begin = time.process_time()
    assert _found("word " * 4000 + f"password: {PASSWORD} " + "word " * 4000) == [PASSWORD]
    assert _found("x" * 50_000) == []
    assert time.process_time() - begin < 5
