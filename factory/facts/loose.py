"""Questions as people type them: what is asked for, a few of a statement's words, and what its document is about.

A model that has met only whole statements as questions answers only these; and a statement such as `The clock weighs
4.6 kg` does not say which clock, its document's title does. Knows facts, titles and how rare words are; not documents.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from factory.facts import spans
from factory.facts.phrasing import Ask
from factory.rows import Fact
from factory.text import normalize

FORM = "loose"
GAP = "___"
WORD = re.compile(r"[^\W_][\w'’./&%-]*\w|[\w$€£%]")  # noqa: RUF001
NUM_WORDS = (1, 2, 2, 3, 3, 4, 5, 6, 8)  # of a sentence's telling words, drawn evenly
NEAR = 6.0  # words: how far from the answer a word still belongs to it
CELL_SHARE = 0.8  # of the words of a table cell's row and column
ABOUT_TITLE, ABOUT_HEADING = 0.7, 0.4  # how often words of these are there
TRIES = 6
LINKS = (" for the ", " in the ", " of the ", " on the ", " of a ", " with ", " of ", " for ", " ")
AUXILIARIES = ("is", "does", "do", "are", "can", "should", "", "")
# What else asks for an answer that these words ask for; units are those at the end of `how many …`.
OTHER_WORDS = {
    "how much": ("how much money", "what price", "what"),
    "what date": ("when", "when", "which day", "by when"),
    "what time": ("when", "at what time", "from when"),
    "what percentage": ("how many per cent", "how much"),
    "which code": ("what number", "what code", "which part", "what"),
    "who": ("which person", "whose name", "what name"),
    "where": ("which place", "what place"),
    "what": ("which", "what is the name", "which one"),
}
OTHER_WORDS_OF_UNITS = (
    ("mm cm m km metres meters inches feet miles yards", ("how long", "how far", "how high", "how wide", "what size")),
    ("kg g tonnes pounds grams", ("how heavy", "what weight", "how much")),
    ("seconds minutes hours days nights weeks months years", ("how long", "how long", "how soon", "how often")),
    ("kW W V A Nm dB bar °C", ("how much", "what")),
)  # fmt: skip


@cache
def _stop_words() -> frozenset[str]:
    from spacy.lang.en.stop_words import STOP_WORDS

    return frozenset(STOP_WORDS) - set(normalize.NUMBER_WORDS)


def says_something(word: str) -> bool:
    """Tell whether a word is none of those that stand in every text."""
    return word.lower() not in _stop_words()


def ways_to_ask(asks: str) -> tuple[str, ...]:
    """Return question words for the same kind of answer, `asks` most often."""
    if asks.startswith("how many"):
        unit = asks.rsplit(None, 1)[-1]
        found = [words for units, words in OTHER_WORDS_OF_UNITS if unit in units.split()]
        return (asks, asks, asks, "how many", *(found[0] if found else ()))
    return (asks, asks, *OTHER_WORDS.get(asks, ()))


@dataclass(frozen=True)
class _Statement:
    """A fact as it is asked for: its question words, and the words before and after the answer."""

    asks: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    tokens: frozenset[str]  # of all this and of what it is about
    answer: str

    @property
    def words(self) -> tuple[str, ...]:
        return self.before + self.after


class LooseAsker:
    """Words loose questions about facts of one corpus; the same fact gets the same ones in every run."""

    def __init__(self, facts: Iterable[Fact], titles: Mapping[str, str]) -> None:
        """Read what each fact says; `titles` are those of the documents by path."""
        self._titles = titles
        self._statements: dict[str, _Statement] = {}
        self._holding = defaultdict[str, set[str]](set)
        texts = set()
        for fact in facts:
            statement = self._statements[fact.id] = _read(fact, self._title(fact))
            texts.add(fact.evidence.text)
            for token in statement.tokens:
                self._holding[token].add(fact.id)
        self._counts = Counter(token for text in texts for token in set(normalize.tokens(text)))
        self._title_counts = Counter(
            token for title in titles.values() for token in set(normalize.tokens(title))
        )

    def ask(self, fact: Fact, count: int) -> tuple[Ask, ...]:
        """Return up to `count` different questions for a fact; fewer where its words have other answers, too."""
        draw = Random(fact.id)
        found: dict[str, Ask] = {}
        for _ in range(2 * count):
            if len(found) == count:
                break
            question = self._word(fact, draw)
            if question and not normalize.contains(question, fact.answer):
                found.setdefault(normalize.normalize(question), Ask(FORM, question))
        return tuple(found.values())

    def _title(self, fact: Fact) -> str:
        return self._titles.get(fact.evidence.document, fact.topic)

    def _word(self, fact: Fact, draw: Random) -> str:
        """Return one question whose words stand in no fact with another answer of the kind; empty if none is found."""
        statement = self._statements[fact.id]
        for _ in range(TRIES):
            about = self._about(fact, statement, draw)
            kept = self._some(statement, fact.kind, draw)
            if self._is_clear(fact, [*kept, *about]):
                break
        else:
            return ""
        if len(kept) > 2 and draw.random() < 0.25:
            place = draw.randrange(1, len(kept))
            kept = kept[place:] + kept[:place]
        question = _arrange(draw.choice(ways_to_ask(statement.asks)), " ".join(kept), " ".join(about), draw)
        return question.lower() if draw.random() < 0.25 else question[:1].upper() + question[1:]

    def _about(self, fact: Fact, statement: _Statement, draw: Random) -> list[str]:
        """Return words of the title, those of few titles first, and of the heading, that the statement has not."""
        title = self._title(fact)
        names = [word for word in WORD.findall(title) if says_something(word)]
        heading = (
            [word for word in WORD.findall(fact.topic) if says_something(word)] if fact.topic != title else []
        )
        words: list[str] = []
        if names and draw.random() < ABOUT_TITLE:
            weights = [self._title_weight(word) for word in names]
            places = draw.choices(range(len(names)), weights, k=draw.choice((1, 1, 2, 3)))
            words += [names[place] for place in sorted(set(places))]
        if heading and draw.random() < ABOUT_HEADING:
            places = draw.sample(range(len(heading)), min(len(heading), draw.choice((1, 2, 3))))
            words += [heading[place] for place in sorted(places)]
        told = {word.lower() for word in statement.words}
        return [word for word in words if word.lower() not in told]

    def _title_weight(self, word: str) -> float:
        rarest = min((self._title_counts[token] for token in normalize.tokens(word)), default=1)
        return (2.0 if word[0].isupper() else 1.0) / max(rarest, 1)

    def _some(self, statement: _Statement, kind: str, draw: Random) -> list[str]:
        """Return some words in their order: those near the answer and rare ones first, small ones beside these."""
        words, size = statement.words, len(statement.before)
        places = [place for place, word in enumerate(words) if says_something(word)]
        if kind == "sentence":
            far = [size - place if place < size else place - size + 1 for place in places]
            weights = [
                math.exp(-steps / NEAR) + 0.1 + 0.6 / (1 + self._rarity(words[place]))
                for place, steps in zip(places, far, strict=True)
            ]
            kept = set(draw.choices(places, weights, k=draw.choice(NUM_WORDS))) if places else set()
        else:
            kept = {place for place in places if draw.random() < CELL_SHARE}
        small, share = set(range(len(words))) - set(places), draw.uniform(0, 0.7)
        kept |= {place for place in sorted(small) if {place - 1, place + 1} & kept and draw.random() < share}
        return [words[place] for place in sorted(kept)]

    def _rarity(self, word: str) -> int:
        return min((self._counts[token] for token in normalize.tokens(word)), default=0)

    def _is_clear(self, fact: Fact, words: Sequence[str]) -> bool:
        """Tell whether no fact with all these words has another answer that the same question words ask for."""
        tokens = {token for word in words for token in normalize.tokens(word)}
        if not tokens:
            return False
        own = self._statements[fact.id]
        others = set.intersection(*(self._holding[token] for token in tokens)) - {fact.id}
        rivals = (self._statements[other] for other in others)
        return all(rival.answer == own.answer or rival.asks != own.asks for rival in rivals)


def _read(fact: Fact, title: str) -> _Statement:
    if fact.kind == "sentence":
        before, _, after = fact.relation.partition(GAP)
        asks = {answer.text: answer.asks for answer in spans.answers(fact.evidence.text)}.get(
            fact.answer, "what"
        )
    else:
        before, after = fact.subject if fact.kind == "faq" else f"{fact.subject} {fact.relation}", ""
        whole = [answer.asks for answer in spans.answers(fact.answer) if answer.text == fact.answer]
        asks = (whole or ["what"])[0]
    tokens = normalize.tokens(f"{before} {after} {title} {fact.topic}")
    return _Statement(
        asks,
        tuple(WORD.findall(before)),
        tuple(WORD.findall(after)),
        frozenset(tokens),
        normalize.normalize(fact.answer),
    )


def _arrange(asks: str, told: str, about: str, draw: Random) -> str:
    auxiliary = "" if asks.endswith("name") else draw.choice(AUXILIARIES)
    article = draw.choice(("", "the ", "a ")) if about else ""
    linked = f"{draw.choice(LINKS)}{about}" if about else ""
    orders = (
        f"{asks} {told}{linked}?",
        f"{asks} {auxiliary} {article}{about} {told}?",
        f"{about}{draw.choice((': ', ', ', ' ')) if about else ''}{asks} {told}?",
        f"{about} {told}, {asks}?",
        f"{told} {about} {asks}?",
    )
    (order,) = draw.choices(orders, weights=(35, 25, 20, 10, 10))
    return re.sub(r"\s+([?,:])", r"\1", " ".join(order.split()))
