import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from factory.text.clean import clean_lines, clean_text, flatten_text


def test_invisible_characters_are_stripped():
    assert clean_text("a\u200bb\u202ec\u2066d\ufeffe\U000e0041f\u00adg\x00h\x1bi") == "abcdefghi"


def test_text_is_composed_but_not_folded():
    assert clean_text("e\u0301") == "é"
    assert clean_text("ﬁve ²") == "ﬁve ²"


def test_joiners_stay_inside_indic_and_arabic_words_only():
    assert clean_text("\u06cc\u200c\u062e") == "\u06cc\u200c\u062e"
    assert clean_text("ig\u200cnore") == "ignore"


def test_spaces_and_line_ends_are_plain():
    assert clean_text("a\u00a0b\u3000c\r\nd\re\u2028f") == "a b c\nd\ne\nf"
    assert flatten_text("  a \n\t b ") == "a b"
    assert clean_lines("\n\n  a  \n\tb \n\n") == "  a\n\tb"


@given(st.text())
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")
