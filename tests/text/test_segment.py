"""Sentences and words: every piece stands where it says, and together they hold all there is."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.segment import Piece, sentences, trim, words

PROSE = st.lists(
    st.sampled_from(
        [
            "Dr. ",
            "e.g. ",
            "No. 5",
            "Stop!",
            "Why? ",
            "£1,290",
            ". ",
            "\n",
            "\n\n",
            "; ",
            "A. ",
            "“Halt.” ",
            "Über ",
            "82 °C",
        ]
    )
    | st.text(max_size=8)
).map("".join)
FEW = settings(max_examples=60, deadline=None)


def _texts(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces]


def _rest(text: str, pieces: list[Piece]) -> str:
    for piece in reversed(pieces):
        text = text[: piece.start] + text[piece.end :]
    return text


@FEW
@given(PROSE)
def test_pieces_are_stretches_of_their_text_in_order(text):
    for pieces in (sentences(text), words(text)):
        assert all(piece.text == text[piece.start : piece.end] != "" for piece in pieces)
        assert all(one.end <= other.start for one, other in pairwise(pieces))


@FEW
@given(PROSE)
def test_sentences_and_words_leave_white_space_only(text):
    assert _rest(text, sentences(text)).strip() == ""
    assert _rest(text, words(text)).strip() == ""


@FEW
@given(PROSE)
def test_sentences_are_trimmed_and_hold_no_line_break(text):
    assert all(sentence == sentence.strip() and "\n" not in sentence for sentence in _texts(sentences(text)))


@FEW
@given(PROSE)
def test_no_word_holds_white_space(text):
    assert not [word for word in _texts(words(text)) if word.split() != [word]]


@FEW
@given(st.text(), st.data())
def test_trimming_equals_strip(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    piece = trim(text, start, end)
    assert piece.text == text[start:end].strip() == text[piece.start : piece.end]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It stops. It starts! Does it? Yes", ["It stops.", "It starts!", "Does it?", "Yes"]),
        ("See Dr. Abara at approx. 5 p.m. Monday.", ["See Dr. Abara at approx. 5 p.m. Monday."]),
        ("Written by C. Ashdale. He knows.", ["Written by C. Ashdale.", "He knows."]),
        ("Firmware 7.3.2 is current. 12 dials follow.", ["Firmware 7.3.2 is current.", "12 dials follow."]),
        ("Heading\nText below\n\nMore", ["Heading", "Text below", "More"]),
        ("He said “Stop.” Then he left.", ["He said “Stop.”", "Then he left."]),
        ("(It rings.) Go.", ["(It rings.)", "Go."]),
        ("Uhren gehen. Über alles. Ärger.", ["Uhren gehen.", "Über alles.", "Ärger."]),
        ("時計です。時間。", ["時計です。", "時間。"]),
        ("First; Second; third", ["First;", "Second; third"]),
        ("it works. then not", ["it works. then not"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_where_sentences_end(text, expected):
    assert _texts(sentences(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It costs £385.", ["It", "costs", "£385", "."]),
        ("£1,290, not $5.50!", ["£1,290", ",", "not", "$5.50", "!"]),
        ("1,312 clocks, 5%", ["1,312", "clocks", ",", "5%"]),
        ("£ 385", ["£", "385"]),
        ("S-2041-B (don't) 07:30–14:45", ["S-2041-B", "(", "don't", ")", "07:30", "–", "14:45"]),  # noqa: RUF001
        ("_private __init__", ["_", "private", "_", "_", "init__"]),
    ],
)
def test_what_is_a_word(text, expected):
    assert _texts(words(text)) == expected
