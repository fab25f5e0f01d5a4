"""Numbers among the pieces of a text, in digits or in words, as digits in one spelling. Knows no units."""

import re
from collections.abc import Sequence
from decimal import Decimal

from factory.text.normalize import NUMBER_WORDS

SMALL = {word: int(digits) for word, digits in NUMBER_WORDS.items() if word != "hundred"}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


def piece_at(pieces: Sequence[str], place: int) -> str:
    """Return the piece at a place, "" after the last."""
    return pieces[place] if place < len(pieces) else ""


def read_number(pieces: Sequence[str], place: int) -> tuple[str, int] | None:
    """Return the number at a place in digits, and the place after it; None if there is none."""
    first = piece_at(pieces, place)
    if first in SMALL or first in SCALES or first == "hundred":
        return _read_spelled(pieces, place)
    if not first or not first[-1].isdigit():
        return None
    value, place = _digits(first), place + 1
    while scale := {**SCALES, "hundred": 100}.get(piece_at(pieces, place)):
        value, place = scaled(value, scale), place + 1
    return value, place


def _digits(piece: str) -> str:
    """Return digits in one spelling: no zeros at the end of a decimal; what begins with 0 is a code and stays."""
    if ":" in piece or piece.count(".") != 1:
        return piece.removeprefix("0") if re.fullmatch(r"0\d:\d\d", piece) else piece
    whole, decimals = piece.split(".")
    return f"{whole or '0'}.{decimals}".rstrip("0").rstrip(".")


def scaled(value: str, scale: int) -> str:
    """Return digits times a scale; a time or a code stays as it is."""
    return _digits(f"{Decimal(value) * scale:f}") if re.fullmatch(r"\d+(?:\.\d+)?", value) else value


def _read_spelled(pieces: Sequence[str], place: int) -> tuple[str, int]:
    """Return a number in words and the place after it: "two thousand five hundred and six", "ninety nine"."""
    total = group = 0
    below, scale_below = 100, 10**12  # what the next word must be less than
    while True:
        word = piece_at(pieces, place)
        if word == "and" and below == 100 and total + group and _is_last(pieces, place + 1):
            word, place = piece_at(pieces, place + 1), place + 1
        if word in SMALL and SMALL[word] < below and (SMALL[word] or below == 100):
            group += SMALL[word]
            below = 10 if SMALL[word] >= 20 else 0
        elif word == "hundred" and group < 10:
            group, below = max(group, 1) * 100, 100
        elif SCALES.get(word, scale_below) < scale_below:
            scale_below = SCALES[word]
            total, group, below = total + max(group, 1) * scale_below, 0, 100
        else:
            return str(total + group), place
        place += 1


def _is_last(pieces: Sequence[str], place: int) -> bool:
    """Tell whether a word ends a number ("one hundred and two") and begins no other ("one hundred and two hundred")."""
    return piece_at(pieces, place) in SMALL and piece_at(pieces, place + 1) != "hundred"
