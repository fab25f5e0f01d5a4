"""Sentences and words of a text, each with its place in it. Pure functions of str."""

import re
from dataclasses import dataclass
from itertools import pairwise

_SHORT = (
    "e.g i.e etc vs approx no nos inc ltd co corp dr mr mrs ms st jr sr dept est fig eq p pp vol ch sec min "
    "max jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun a.m p.m u.s u.k ext "
    "ref"
)
ABBREVIATIONS = frozenset(_SHORT.split())
# The last group is the first character of what follows; `sentences` asks whether it can begin a sentence.
BOUNDARY = re.compile(r"[.!?]+[\"'”’»)\]]*(?=\s+[\"'“‘«(\[]*(\w))|[。！？]+|\n+|;(?=\s+(\w))")  # noqa: RUF001
WORD = re.compile(
    r"[^\W_](?:(?:[\w'’./:@%&+-]|(?<=\d),(?=\d{3}(?!\d)))*[\w%])?|[$€£]\d+(?:[.,]\d+)*\w*|[^\w\s]|_"  # noqa: RUF001
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: `text == source[start:end]`."""

    text: str
    start: int
    end: int


def sentences(text: str) -> list[Piece]:
    """Return the sentences of a text in order; line breaks end one, abbreviations do not."""
    cuts = [0]
    for match in BOUNDARY.finditer(text):
        opener = match.group(1) or match.group(2)
        if opener and not (opener.isupper() or (opener.isdigit() and match.group(1))):
            continue
        if text[match.start()] != "." or not _is_abbreviation(text[cuts[-1] : match.start()]):
            cuts.append(match.end())
    cuts.append(len(text))
    pieces = (trim(text, start, end) for start, end in pairwise(cuts))
    return [piece for piece in pieces if piece.text]


def _is_abbreviation(before: str) -> bool:
    """Tell whether the full stop after this start of a sentence belongs to its last word."""
    parts = before.rsplit(None, 1)
    last = parts[-1].strip("(").lower() if parts else ""
    initial = len(last) == 1 and last.isalpha() and last != "i"
    return last in ABBREVIATIONS or initial


def trim(text: str, start: int, end: int) -> Piece:
    """Return a stretch without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Piece(text[start:end], start, end)


def words(text: str) -> list[Piece]:
    """Return words, numbers, amounts and single punctuation marks in order; no piece holds white space."""
    return [Piece(match.group(), match.start(), match.end()) for match in WORD.finditer(text)]
