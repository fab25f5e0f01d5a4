"""Words as a score compares them: numbers, money, percentages and dates in one spelling each. Pure functions of str."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from factory.text.normalize import ARTICLES, plain
from factory.text.numerals import SCALES, SMALL, piece_at, read_number, scaled

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
BREAKS = set(",;:.!?()[]")
DROPPED = ARTICLES | MINUS | BREAKS | {"£", "$", "€", "%"}
SIGNS = {*AFTER.values(), "time", "date"}
JOINERS = {",", "or", "and", "to"}  # between numbers that share one unit; a dash leaves no piece
VERSIONS = {"v", "version", "release"}  # 3.10 is not 3.1 there
NOUNS = {
    "people", "staff", "person", "men", "women", "children", "second", "minute", "hour", "day", "week", "month",
    "year", "page", "point", "degree", "metre", "meter", "litre", "bar", "g", "kg", "mg", "km", "cm", "mm", "m",
    "kb", "mb", "gb", "tb", "kw", "kwh", "w", "v", "hz",
}  # fmt: skip
NO_NOUNS = {
    "plus", "less", "unless", "this", "thus", "does", "always", "towards", "applies", "includes", "covers", "costs",
    "needs", "remains", "excludes", "requires", "means", "begins", "starts", "ends", "closes", "opens", "runs",
    "falls", "expires", "comes", "takes",
}  # fmt: skip
NO_UNITS = {*JOINERS, *ARTICLES, *SMALL, *SCALES, "hundred"}
KEPT_A = "\ua4ee"  # stands for an "a" that is a name, while the others are dropped as articles

_MONTH = rf"({'|'.join(MONTHS)}|{'|'.join(month[:3] for month in MONTHS)}|sept)\b\.?"
_DAY = r"(\d{1,2})(?:st|nd|rd|th)?"
ISO_DATE = re.compile(r"(?<!\d)(\d{4})-(0[1-9]|1[0-2])-([0-2]\d|3[01])(?!\d)")
DAY_FIRST = re.compile(rf"\b{_DAY} (?:of )?{_MONTH}")
MONTH_FIRST = re.compile(rf"\b{_MONTH} {_DAY}\b(?![.:]\d)(?=(?: ([a-z]+))?)")
MONTH_YEAR = re.compile(rf"\b{_MONTH},? (\d{{4}})\b")
ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
PIECE = re.compile(
    r"(?<![\w)\].])(?<!\d[£$€%])(?<!\d [£$€%])[-\u2212](?=[£$€]?\d)"
    r"|[£$€%]|\d+(?:[.:]\d+)*|(?<![\w.])\.\d+|[^\W\d_]+|[,;:.!?()\[\]]"
)
NAME_A = re.compile(r"(?<=\w )A\b(?!'| [A-Z])|\bA(?=[.,:;)])")
LAST_A = re.compile(r"\b[aA](?=\W*$)")


@dataclass(frozen=True)
class Word:
    """A comparison token. A number's `text` is its value in digits, its `unit` what a sign or a word beside it says.

    Units are `percent`, currencies, `time`, `date`, or the word that follows; a bare number has none. In a list of
    numbers the last says the unit of all, or the first does. A lone "one" is no number: most are pronouns.
    """

    text: str
    is_number: bool = False
    unit: str = ""

    def matches(self, other: "Word") -> bool:
        """Tell whether two tokens say the same; a unit that one of them leaves out is not held against it."""
        return self.text == other.text and (self.kind == other.kind or not (self.is_sure and other.is_sure))

    @property
    def kind(self) -> str:
        """The unit, the same for one and for several."""
        return self.unit if self.unit in SIGNS else self.unit.removesuffix("s")

    @property
    def is_sure(self) -> bool:
        """Whether the unit is one, and not just any word that follows."""
        return self.unit in SIGNS or _is_noun(self.unit)


def words(text: str) -> list[Word]:
    """Return a text's comparison tokens as `normalize.tokens` does, but each number as one token with its unit.

    "1,000", "one thousand" and "1000.0" are one number; "5 %" and "five percent", "£2" and "two pounds" one amount;
    "2024-04-21", "21st of April 2024" and "April 21, 2024" one date; "10-12" and "10 to 12" one range. An "a" is an
    article unless it is a capital amid a sentence or the last word.
    """
    return _share_units(_read(_pieces(text)))


def stance(text: str) -> str:
    """Return the first "yes" or "no" that a text says; "no" before a noun counts only if there is nothing else."""
    pieces = [piece for piece in _pieces(text) if piece not in DROPPED or piece in BREAKS]
    first = next((place for place, piece in enumerate(pieces) if piece not in BREAKS), 0)
    for place, piece in enumerate(pieces):
        stands = place == first or piece_at(pieces, place + 1) in {"", *BREAKS}
        if piece == "yes" or (piece == "no" and stands):
            return piece
    return "no" if "no" in pieces else ""


def items(said: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the numbers among some tokens, a date with its day, month and year as one."""
    place = 0
    while place < len(said):
        stop = place + 1
        if said[place].unit == "date" and _is_month(said, stop):
            stop += 1
        if _is_month(said, stop - 1) and _is_date_number(said, stop) and not _is_month(said, stop + 1):
            stop += 1
        if any(word.is_number for word in said[place:stop]):
            yield said[place:stop]
        place = stop


def _is_month(said: Sequence[Word], place: int) -> bool:
    return place < len(said) and said[place].text in MONTHS


def _is_date_number(said: Sequence[Word], place: int) -> bool:
    return place < len(said) and said[place].unit == "date"


def find(part: Sequence[Word], whole: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Yield the stretches of `whole` that match `part`, which is not empty."""
    for start in range(len(whole) - len(part) + 1):
        stretch = whole[start : start + len(part)]
        if all(one.matches(other) for one, other in zip(part, stretch, strict=True)):
            yield stretch


def _pieces(text: str) -> list[str]:
    marked = text if text.isupper() else NAME_A.sub(KEPT_A, text)
    return PIECE.findall(_one_date_order(plain(LAST_A.sub(KEPT_A, marked))))


def _is_noun(word: str) -> bool:
    """Tell whether a word after a number is most likely what is counted: a known unit, or a plural."""
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word in NOUNS or (plural and word not in NO_NOUNS)


def _one_date_order(text: str) -> str:
    """Return a plain text whose dates read day, month, year, and whose ordinals lost their ending."""
    text = ISO_DATE.sub(lambda m: f"{int(m[3])} {MONTHS[int(m[2]) - 1]} {m[1]}", text)
    text = DAY_FIRST.sub(lambda m: f"{int(m[1])} {_month(m[2])}", text)
    text = MONTH_FIRST.sub(_day_before_month, text)
    text = MONTH_YEAR.sub(lambda m: f"{_month(m[1])} {m[2]}", text)
    return ORDINAL.sub("", text)


def _day_before_month(found: re.Match[str]) -> str:
    """Return "April 21 was" with its day first, and "March 12 people" as it is."""
    return found[0] if _is_noun(found[3] or "") else f"{int(found[2])} {_month(found[1])}"


def _month(name: str) -> str:
    return next(month for month in MONTHS if month[:3] == name[:3])


def _read(pieces: Sequence[str]) -> Iterator[tuple[Word, bool]]:
    """Yield the tokens, and of each whether it is a number in one list with the number before."""
    place, previous, joins = 0, Word(""), False
    while place < len(pieces):
        piece, found = pieces[place], _read_amount(pieces, place, previous)
        if piece == "to" and joins and place + 1 < len(pieces) and _read_amount(pieces, place + 1, previous):
            place += 1  # a range, as with a dash
            continue
        word, place = found or (Word("a" if piece == KEPT_A else piece), place + 1)
        if found or piece not in DROPPED:
            yield word, joins and found is not None
            previous = word
        joins = found is not None or (joins and piece in JOINERS)


def _share_units(found: Iterable[tuple[Word, bool]]) -> list[Word]:
    """Return tokens whose numbers have the unit of their list, where they have none of their own."""
    said: list[Word] = []
    pairs: list[tuple[int, int]] = []  # a number and the one before it in its list
    last = 0
    for word, is_joined in found:
        if is_joined:
            pairs.append((len(said), last))
        last = last if word.text in JOINERS else len(said)
        said.append(word)
    for place, before in reversed(pairs):
        if not said[before].unit and said[place].unit not in {"time", "date"}:
            said[before] = replace(said[before], unit=said[place].unit)
    for place, before in pairs:
        if not said[place].is_sure and said[before].unit in BEFORE.values():
            said[place] = replace(said[place], unit=said[before].unit)
    return said


def _read_amount(pieces: Sequence[str], place: int, previous: Word) -> tuple[Word, int] | None:
    """Return the number that begins at a place, with its sign and unit, and the place after it; None if none does."""
    if pieces[place] == "one" and place and pieces[place - 1] == "no":
        return None
    start = place
    negative = pieces[place] in MINUS or (pieces[place] == "minus" and not previous.is_number)
    place += negative
    if unit := BEFORE.get(piece_at(pieces, place), ""):
        place += 1
    number = read_number(pieces, place)
    if number is None:
        return None
    value = pieces[place] if previous.text in VERSIONS and pieces[place][-1].isdigit() else number[0]
    place = number[1]
    if unit and (scale := SUFFIXES.get(piece_at(pieces, place))):
        value, place = scaled(value, scale), place + 1
    if (piece_at(pieces, place), piece_at(pieces, place + 1)) == ("per", "cent"):
        unit, place = "percent", place + 2
    elif (after := AFTER.get(piece_at(pieces, place))) and not _opens_another(pieces, place):
        unit, place = unit or after, place + 1
    unit = unit or _unit_of(value, previous, piece_at(pieces, place))
    is_pronoun = pieces[start] == "one" and place == start + 1
    return Word(f"-{value}" if negative else value, not is_pronoun, unit), place


def _opens_another(pieces: Sequence[str], place: int) -> bool:
    """Tell whether a currency belongs to the number after it ("2 £3")."""
    return pieces[place] in BEFORE and piece_at(pieces, place + 1)[:1].isdigit()


def _unit_of(value: str, previous: Word, following: str) -> str:
    if ":" in value:
        return "time"
    is_year = len(value) == 4 or not _is_noun(following)
    if following in MONTHS or (previous.text in MONTHS and is_year):
        return "date"
    return following if following.isalpha() and following not in NO_UNITS else ""
