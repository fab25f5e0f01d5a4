"""Blind comparison of models: win rates from votes, and answers that do not say who wrote them. Keeps nothing.

Win rates of pairs and never Elo, whose numbers depend on the order in which the votes came.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from factory.history.rows import Vote
from factory.tasks.score import interval

# About as many non-tied votes as show a true win rate of 70 % (power 80 %, two-sided 5 %).
MIN_VOTES = 50
HIDDEN = "[name hidden]"
SHORTEST_NAME = 3

FAMILIES = (
    r"smol\s?lm|chat\s?gpt|gpt|qwen|llama|claude|gemini|gemma|mi[sx]tral|phi|deep\s?seek|falcon|olmo|granite"
)
NAME = rf"(?:(?:{FAMILIES})(?![a-z])(?:[-.]?\w{{1,20}}){{0,8}}|{re.escape(HIDDEN)})"
QUALITY = (
    r"(?:large|small|helpful|friendly|virtual|digital|conversational|generative|advanced|open(?:-source)?)"
)
SORT = rf"(?:{QUALITY}\s){{0,3}}(?:AI(?:\s(?:language\s)?(?:model|assistant|system|chat\s?bot))?|language\smodel|LLM)\b"
MADE = r"(?:trained|fine-?tuned|developed|created|designed|made|built|provided)"
# A maker: up to four words that begin with a capital or digit, which an answer's next words seldom do.
MAKER = r"(?-i:(?:the\s)?[A-Z0-9][\w&'-]{0,40}(?:\s[A-Z0-9&][\w&'-]{0,40}){0,3})"
BY = rf"(?:,?\s(?:(?:that|which)\s(?:is|was)\s)?(?:{MADE}\s(?:and\s{MADE}\s)?)?(?:by|from|at)\s{MAKER})"
SELF = r"\b(?:I\sam|I['’]m|my\sname\sis|call\sme|I\sgo\sby)\s(?:called\s|named\s)?"  # noqa: RUF001
WHAT = rf"(?:(?:an?|the)\s(?:{SORT}|(?:{QUALITY}\s){{0,3}}(?:assistant|chat\s?bot)\b)|{NAME})"
PHRASES = (
    re.compile(rf"{SELF}{WHAT}(?:,?\s(?:called\s|named\s)?{WHAT}){{0,2}}{BY}?", re.IGNORECASE),
    re.compile(rf"\bas\san?\s{SORT}{BY}?", re.IGNORECASE),
    re.compile(rf"\bI\s(?:was|am|have\sbeen)\s{MADE}\s(?:and\s{MADE}\s)?(?:by|at)\s{MAKER}", re.IGNORECASE),
)


@dataclass(frozen=True)
class Duel:
    """How two models did against each other; `first` and `second` are in alphabetical order.

    `rate` is the share that `first` won, ties and both-bad votes counting half; `low` and `high` are its 95 %
    Wilson interval. All three are None below `MIN_VOTES` votes that decided for one.
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    rate: float | None
    low: float | None
    high: float | None

    @property
    def better(self) -> str | None:
        """The model whose win rate is above one half with its whole interval, or None."""
        if self.low is not None and self.low > 0.5:
            return self.first
        return self.second if self.high is not None and self.high < 0.5 else None

    def describe(self) -> str:
        """Return one line on who is better, or why nobody can say."""
        decided, both = self.wins + self.losses, f"{self.first} and {self.second}"
        if self.rate is None or self.low is None or self.high is None:
            return f"{both}: not enough votes ({decided} of {MIN_VOTES} that decide)"
        shown = f"{self.first} won {self.rate:.1%} [{self.low:.1%}, {self.high:.1%}] against {self.second}"
        counts = f"{self.wins} won, {self.losses} lost, {self.ties} tied, {self.both_bad} both bad"
        return f"{shown} ({counts}): {f'{self.better} is better' if self.better else 'no clear winner'}"


def duels(votes: Iterable[Vote]) -> list[Duel]:
    """Return one row for each pair of models that met, sorted by name; a model against itself is left out."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for vote in votes:
        if vote.model_a == vote.model_b:
            continue
        turned = vote.model_a > vote.model_b
        pair = (vote.model_b, vote.model_a) if turned else (vote.model_a, vote.model_b)
        winner = {"a": "b", "b": "a"}.get(vote.winner, vote.winner) if turned else vote.winner
        counts[pair][winner] += 1
    return [_duel(first, second, found) for (first, second), found in sorted(counts.items())]


def _duel(first: str, second: str, found: Counter[str]) -> Duel:
    wins, losses, ties, both_bad = found["a"], found["b"], found["tie"], found["both_bad"]
    counts = (wins, losses, ties, both_bad)
    if wins + losses < MIN_VOTES:
        return Duel(first, second, *counts, None, None, None)
    total, points = sum(counts), wins + (ties + both_bad) / 2
    low, high = interval(math.floor(points), total)[0], interval(math.ceil(points), total)[1]
    return Duel(first, second, *counts, points / total, low, high)


def mask_identity(text: str, names: Sequence[str] = ()) -> str:
    """Return an answer without the phrases by which a model says what it is, and without the names given.

    Names are found in any case and however their parts are joined (`SmolLM2 135M`, `smollm2-135m`).
    """
    for name in sorted(names, key=len, reverse=True):
        if pattern := _name_pattern(name):
            text = HIDDEN.join(pattern.sub(HIDDEN, piece) for piece in text.split(HIDDEN))
    before = ""
    while before != text:  # what is left may read as a phrase again: "I am I am Qwen"
        before = text
        for phrase in PHRASES:
            text = phrase.sub(HIDDEN, text)
    return text


def _name_pattern(name: str) -> re.Pattern[str] | None:
    parts = re.findall(r"[^\W_]+", name)
    if sum(map(len, parts)) < SHORTEST_NAME:
        return None
    joined = r"[\W_]{0,3}".join(map(re.escape, parts))
    return re.compile(rf"(?<!\w){joined}(?!\w)", re.IGNORECASE)
