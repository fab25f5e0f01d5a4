"""Passages that say something else: other numbers, dates and names where the answers stood.

A model that knows its documents by heart answers from memory whatever stands above the question. Where the passage
contradicts the memory, only reading helps (DisentQA, Neeman et al., ACL 2023). Knows texts; not what asks about them.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from factory.facts import spans
from factory.text.normalize import NUMBER_WORDS

MAX_WORDS = 6  # what is longer states something, and is not swapped for what states something else
TRIES = 8
DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
WORDS = "|".join(
    sorted(NUMBER_WORDS.keys() - {"zero", "one", "hundred"})
)  # "one" is no number in "the new one"
NAMED = tuple(names.split("|") for names in (spans.MONTHS, DAYS, WORDS))
VARIABLE = re.compile(
    r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}:\d{2}\b|\d+" + rf"|\b(?:{spans.MONTHS}|{DAYS}|(?i:{WORDS}))\b"
)
SYMBOL = re.compile(r"[^\w\s'’-]")  # noqa: RUF001
Looks = tuple[int, bool, bool]


class Alternatives:
    """What could stand in an answer's place: the same with other numbers, or another answer that looks alike."""

    def __init__(self, answers: Iterable[str]) -> None:
        """Keep all answers that may be swapped for one another."""
        self._alike: dict[Looks, list[str]] = defaultdict(list)
        for answer in sorted(set(answers)):
            if not VARIABLE.search(answer):
                self._alike[_looks(answer)].append(answer)

    def choose(self, answers: Iterable[str], text: str, source: random.Random) -> dict[str, str]:
        """Return another answer for each that stands in a text, if one is found that does not stand there."""
        chosen: dict[str, str] = {}
        for answer in sorted(set(answers)):
            if len(answer.split()) <= MAX_WORDS and _whole(answer).search(text):
                others = (self._other(answer, source) for _ in range(TRIES))
                taken = chosen.values()
                found = (other for other in others if other not in taken and not _whole(other).search(text))
                if other := next(found, None):
                    chosen[answer] = other
        return chosen

    def _other(self, answer: str, source: random.Random) -> str:
        if VARIABLE.search(answer):
            return VARIABLE.sub(lambda match: _vary(match[0], source), answer)
        return source.choice(self._alike[_looks(answer)] or [answer])


def replacer(others: Mapping[str, str]) -> Callable[[str], str]:
    """Return what puts the others in their places everywhere in a text, all at once, the longest first."""
    longest_first = sorted(others, key=len, reverse=True)
    pattern = re.compile("|".join(_whole(answer).pattern for answer in longest_first) or r"(?!)")
    return lambda text: pattern.sub(lambda match: others[match[0]], text)


def _looks(answer: str) -> Looks:
    return len(answer.split()), answer[:1].isupper(), bool(SYMBOL.search(answer))


def _whole(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


def _vary(part: str, source: random.Random) -> str:
    """Return another day, time, month, weekday or number word, or a number of as many digits.

    A number that may be a year or a day of a month stays one.
    """
    for names in NAMED:
        if part in names:
            return source.choice(names)
        if part.lower() in names:
            return source.choice(names).capitalize()
    if "-" in part:
        return f"{_vary(part[:4], source)}-{source.randint(1, 12):02}-{source.randint(1, 28):02}"
    if ":" in part:
        return f"{source.randint(0, 23):02}:{source.choice(('00', '15', '30', '45'))}"
    number, high = int(part), 10 ** len(part) - 1
    if len(part) == 4 and 1500 <= number < 2100:
        return str(number + source.randint(-30, 30))
    return str(source.randint((high + 1) // 10, 28 if len(part) == 2 and number <= 31 else high))
