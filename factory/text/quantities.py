"""Words as a score compares them: numbers, money, percentages and dates in one spelling each. Pure functions of str."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from factory.text.normalize import ARTICLES, NUMBER_WORDS, plain

SMALL = {word: int(digits) for word, digits in NUMBER_WORDS.items() if word != "hundred"}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
SUFFIXES = {"k": 10**3, "m": 10**6, "bn": 10**9}  # after an amount of money only: 5 m are metres
BEFORE = {"£": "gbp", "gbp": "gbp", "$": "usd", "usd": "usd", "€": "eur", "eur": "eur"}
AFTER = BEFORE | {
    "pound": "gbp", "pounds": "gbp", "dollar": "usd", "dollars": "usd", "euro": "eur", "euros": "eur",
    "%": "percent", "percent": "percent", "pct": "percent",
}  # fmt: skip
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
MINUS = {"-", "\u2212"}
DROPPED = ARTICLES | MINUS | {"£", "$", "€", "%"}

_MONTH = rf"({'|'.join(MONTHS)}|{'|'.join(month[:3] for month in MONTHS)}|sept)\b\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])-([0-2]\d|3[01])(?!\d)")
DAY_FIRST = re.compile(rf"\b{_DAY} (?:of )?{_MONTH}")
MONTH_FIRST = re.compile(rf"\b{_MONTH} {_DAY}\b(?![.:]\d)")
MONTH_YEAR = re.compile(rf"\b{_MONTH},? (\d{{4}})\b")
ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
PIECE = re.compile(r"(?<![\w)\].])[-\u2212](?=[£$€]?\d)|[£$€%]|\d+(?:[.:]\d+)*|(?<![\w.])\.\d+|[^\W\d_]+")


@dataclass(frozen=True)
class Word:
    """A comparison token. A number's `text` is its value in digits, its `unit` what a sign or a word beside it says.

    Units are `percent`, currencies, `time` and `date`; a bare number has none. A lone "one" is no number: most are
    pronouns.
    """

    text: str
    is_number: bool = False
    unit: str = ""

    def matches(self, other: "Word") -> bool:
        """Tell whether two tokens say the same; a unit that one of them leaves out is not held against it."""
        return self.text == other.text and (self.unit == other.unit or not (self.unit and other.unit))


def words(text: str) -> list[Word]:
    """Return a text's comparison tokens as `normalize.tokens` does, but each number as one token with its unit.

    "1,000", "one thousand" and "1000.0" are one number; "5 %" and "five percent", "£2" and "two pounds" one amount;
    "2024-04-21", "21st of April 2024" and "April 21, 2024" one date.
    """
    return list(_read(PIECE.findall(_one_date_order(plain(text)))))


def find(part: Sequence[Word], whole: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the stretches of `whole` that match `part`, which is not empty."""
    for start in range(len(whole) - len(part) + 1):
        stretch = whole[start : start + len(part)]
        if all(one.matches(other) for one, other in zip(part, stretch, strict=True)):
            yield stretch


def _one_date_order(text: str) -> str:
    """Return a plain text whose dates read day, month, year, and whose ordinals lost their ending."""
    text = ISO_DATE.sub(lambda m: f"{int(m[3])} {MONTHS[int(m[2]) - 1]} {m[1]}", text)
    text = DAY_FIRST.sub(lambda m: f"{int(m[1])} {_month(m[2])}", text)
    text = MONTH_FIRST.sub(lambda m: f"{int(m[2])} {_month(m[1])}", text)
    text = MONTH_YEAR.sub(lambda m: f"{_month(m[1])} {m[2]}", text)
    return ORDINAL.sub("", text)


def _month(name: str) -> str:
    return next(month for month in MONTHS if month[:3] == name[:3])


def _read(pieces: Sequence[str]) -> Iterator[Word]:
    place, previous = 0, Word("")
    while place < len(pieces):
        found = _read_amount(pieces, place, previous)
        word, place = found or (Word(pieces[place]), place + 1)
        if found or word.text not in DROPPED:
            yield word
            previous = word


def _read_amount(pieces: Sequence[str], place: int, previous: Word) -> tuple[Word, int] | None:
    """Return the number that begins at a place, with its sign and unit, and the place after it; None if none does."""
    start = place
    negative = pieces[place] in MINUS or (pieces[place] == "minus" and not previous.is_number)
    place += negative
    if unit := BEFORE.get(_at(pieces, place), ""):
        place += 1
    number = _read_number(pieces, place)
    if number is None:
        return None
    value, place = number
    if unit and (scale := SUFFIXES.get(_at(pieces, place))):
        value, place = _scaled(value, scale), place + 1
    if (_at(pieces, place), _at(pieces, place + 1)) == ("per", "cent"):
        unit, place = "percent", place + 2
    elif (after := AFTER.get(_at(pieces, place))) and not _opens_another(pieces, place):
        unit, place = unit or after, place + 1
    unit = unit or _unit_of(value, previous, _at(pieces, place))
    is_pronoun = pieces[start] == "one" and place == start + 1
    return Word(f"-{value}" if negative else value, not is_pronoun, unit), place


def _opens_another(pieces: Sequence[str], place: int) -> bool:
    """Tell whether a currency belongs to the number after it ("2 £3")."""
    return pieces[place] in BEFORE and _at(pieces, place + 1)[:1].isdigit()


def _unit_of(value: str, previous: Word, following: str) -> str:
    if ":" in value:
        return "time"
    return "date" if previous.text in MONTHS or following in MONTHS else ""


def _at(pieces: Sequence[str], place: int) -> str:
    return pieces[place] if place < len(pieces) else ""


def _read_number(pieces: Sequence[str], place: int) -> tuple[str, int] | None:
    first = _at(pieces, place)
    if first in SMALL or first in SCALES or first == "hundred":
        return _read_spelled(pieces, place)
    if not first or not first[-1].isdigit():
        return None
    value, place = _digits(first), place + 1
    while scale := {**SCALES, "hundred": 100}.get(_at(pieces, place)):
        value, place = _scaled(value, scale), place + 1
    return value, place


def _digits(piece: str) -> str:
    """Return digits in one spelling: no zeros at the end of a decimal; what begins with 0 is a code and stays."""
    if ":" in piece or piece.count(".") != 1:
        return piece.removeprefix("0") if re.fullmatch(r"0\d:\d\d", piece) else piece
    whole, decimals = piece.split(".")
    return f"{whole or '0'}.{decimals}".rstrip("0").rstrip(".")


def _scaled(value: str, scale: int) -> str:
    return _digits(f"{Decimal(value) * scale:f}") if re.fullmatch(r"\d+(?:\.\d+)?", value) else value


def _read_spelled(pieces: Sequence[str], place: int) -> tuple[str, int]:
    """Return a number in words and the place after it: "two thousand five hundred and six", "ninety nine"."""
    total = group = 0
    below, scale_below = 100, 10**12  # what the next word must be less than
    while True:
        word = _at(pieces, place)
        if word == "and" and below == 100 and total + group and _is_last(pieces, place + 1):
            word, place = _at(pieces, place + 1), place + 1
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
    return _at(pieces, place) in SMALL and _at(pieces, place + 1) != "hundred"
