"""Spans of a sentence worth asking for: dates, amounts, quantities, codes, names. Knows looks, no grammar."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from factory.facts import lexis
from factory.facts.lexis import plural, tags

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
DATE = re.compile(
    rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:{MONTHS})(?:,?\s+\d{{4}})?"
    rf"|(?:{MONTHS})\s+\d{{1,2}}(?:,\s*\d{{4}})?"
    rf"|(?:{MONTHS})\s+\d{{4}}|\d{{4}}-\d{{2}}-\d{{2}}|\b(?:1[6-9]|20)\d{{2}}\b(?!\s*[\w%°])"
    r"|(?:(?<=\b[Ii]n )|(?<=\b[Ff]rom )|(?<=\b[Ss]ince )|(?<=\b[Uu]ntil ))(?:1[6-9]|20)\d{2}\b"
    r"(?= (?:to|and|until|with|when|by|it|we|he|she|they|the|at|on|for|in|was|is)\b))"
)
MONEY = re.compile(
    r"[$€£]\s?\d[\d,]*(?:\.\d+)?(?:\s?(?:million|billion|k|m)\b)?"
    r"|\b\d[\d,.]*\s?(?:euros?|dollars?|pounds?|pence)\b|\b\d+p\b"
)
DASH = "[-–]"  # noqa: RUF001
CLOCK = re.compile(
    rf"\b\d{{1,2}}:\d{{2}}(?:\s?[ap]\.?m\.?)?(?:\s*(?:{DASH}|to)\s*\d{{1,2}}:\d{{2}})?"
    r"|\b\d{1,2}\s?[ap]\.?m\b\.?"
)
PERCENT = re.compile(r"\b\d[\d.,]*\s?(?:%|per ?cent\b|percent\b)")
NUMBER = (
    r"(?:\d[\d,]*(?:\.\d+)?|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty"
    r"|half a|one and a half)"
)
UNIT = r"(?:[a-zA-Z°%][\w°/-]*)"
# Not inside a code, a card number or a negative or decimal number.
ALONE = r"(?<![\w.,:/+−–-])(?<!\d )"  # noqa: RUF001
QUANTITY = re.compile(
    rf"{ALONE}{NUMBER}(?:\s*(?:{DASH}|to|or)\s*{NUMBER})?[\s-]{UNIT}"
    r"(?:\s(?:hours?|days?|weeks?|months?|years?|metres?))?(?![\w'’])",  # noqa: RUF001
    re.IGNORECASE,
)
CODE = re.compile(
    r"(?<=[a-z] )\d+(?:\.\d+){2,3}(?=[ ,;)]|\.?$)|\b(?=[\w.-]*\d)(?=[\w.-]*[A-Z])[A-Z0-9][\w]*(?:[-./][\w]+)*\b"
    r"|\b[\w.-]+@[\w.-]+\w|(?<!\d )\b\d{3,5}\s\d{3,4}\s?\d{3,4}\b(?! ?\d)"
)
QUOTED = re.compile(r"[\"“]([^\"”]{2,60})[\"”]")
NAME = re.compile(
    r"\b(?:[A-Z][\w'’&-]+(?:\s(?:de|van|of|the|and|&)\s(?=[A-Z]))?\s?){1,4}(?<!\s)"  # noqa: RUF001
    r"(?:\s\d+\b(?![.,:/]?\d))?"
)
BARE = re.compile(rf"{ALONE}{NUMBER}\b(?![.,:/–-]?\d)(?! \d)", re.IGNORECASE)  # noqa: RUF001


@dataclass(frozen=True)
class Answer:
    """A span of a sentence that can be asked for, and the question words that ask for it."""

    text: str
    start: int
    end: int
    kind: str
    asks: str


def question_words(kind: str, text: str) -> str:
    """Return what asks for an answer of a kind, such as `how many days` or `what date`."""
    if kind == "quantity":
        unit = re.sub(
            rf"^\s*{NUMBER}(?:\s*(?:{DASH}|to|or)\s*{NUMBER})?[\s-]?", "", text, flags=re.IGNORECASE
        )
        return f"how many {plural(unit)}" if unit else "how many"
    if kind == "number" and re.fullmatch(r"\d{4,}", text):
        return "which number"
    return {
        "money": "how much", "date": "what date", "time": "what time", "percent": "what percentage",
        "number": "how many", "name": "who", "place": "where", "code": "which code", "phrase": "what",
    }.get(kind, "what")  # fmt: skip


def answers(sentence: str) -> list[Answer]:
    """Return the spans of a sentence worth asking for, in order, without overlaps; the surest kinds win."""
    found: list[Answer] = []
    for kind, start, end in _spans(sentence):
        while end > start and sentence[end - 1] in " ,.;:":
            end -= 1
        if end > start and all(end <= other.start or start >= other.end for other in found):
            text = sentence[start:end]
            found.append(Answer(text, start, end, kind, question_words(kind, text)))
    return sorted(found, key=lambda answer: answer.start)


def _spans(sentence: str) -> Iterator[tuple[str, int, int]]:
    """Yield what may be an answer, which may overlap, the surest kinds first."""
    for kind, pattern in (("date", DATE), ("money", MONEY), ("time", CLOCK), ("percent", PERCENT)):
        yield from ((kind, *match.span()) for match in pattern.finditer(sentence))
    yield from (("phrase", *match.span(1)) for match in QUOTED.finditer(sentence))
    yield from (("code", *match.span()) for match in CODE.finditer(sentence))
    for match in QUANTITY.finditer(sentence):
        unit = re.split(r"[\s-]", match.group())[-1]
        sure = unit in lexis.UNITS or unit.endswith("s") or not _follows_name(sentence, match.start())
        if sure and _is_unit(unit):
            yield "quantity", *match.span()
    for match in BARE.finditer(sentence):
        if not _follows_name(sentence, match.start()):
            yield "number", *match.span()
    for match in NAME.finditer(sentence):
        if match.start() > 0 and sentence[match.start() - 2 : match.start()] not in (". ", "? ", ": "):
            yield _name_kind(sentence, match), *match.span()


def _follows_name(sentence: str, start: int) -> bool:
    """Tell whether a number belongs to the name before it, as in `Unit 4`."""
    before = sentence[:start].split()
    return len(before) > 1 and before[-1].istitle()


def _is_unit(word: str) -> bool:
    plain = word.lower()
    if word in lexis.UNITS:
        return True
    if plain in lexis.NO_NOUNS | lexis.NO_UNITS:
        return False
    if len(word) < 2 or re.search(r"\d", word) or (word[0].isupper() and not word.endswith("s")):
        return False
    found = tags(word)
    return bool(found) and found[0][1].startswith("NN")


def _name_kind(sentence: str, match: re.Match[str]) -> str:
    before = (sentence[: match.start()].rsplit(None, 1)[-1:] or [""])[0].lower()
    several = " " in match.group().strip()
    if before in {"in", "at", "near"} or (before in {"from", "to"} and not several):
        return "place"
    return "name" if several and "'" not in match.group() and before not in {"the", "a", "an"} else "phrase"
