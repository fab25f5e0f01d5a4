"""Questions as people type them: the question words and some of a statement's words, in any order.

A model that has met only whole statements as questions answers only these; loose ones teach it to go by the words
that tell a statement from others. Knows a fact and how rare words are; not documents.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from random import Random

from factory.facts import spans
from factory.facts.phrasing import Ask
from factory.rows import Fact
from factory.text import normalize

FORM = "loose"
GAP = "___"
WORD = re.compile(r"[^\W_][\w'’./&%-]*\w|[\w$€£%]")  # noqa: RUF001
TELLING = 4  # of the rarest words, two of which are always kept
FEW = 4  # words that say something: a statement with fewer is asked for with its topic
SHARE = (0.4, 0.95)  # of the words that are kept
LINKS = (" for ", " in ", " with ", " of ", ", ")


@cache
def _stop_words() -> frozenset[str]:
    from spacy.lang.en.stop_words import STOP_WORDS

    return frozenset(STOP_WORDS) - set(normalize.NUMBER_WORDS)


def says_something(word: str) -> bool:
    """Tell whether a word is none of those that stand in every text."""
    return word.lower() not in _stop_words()


class LooseAsker:
    """Words loose questions about facts of one corpus; the same fact gets the same ones in every run."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        """Count how many statements each word stands in, and what else is said in the words of each."""
        texts, self._answers = set(), defaultdict[str, set[str]](set)
        for fact in facts:
            texts.add(fact.evidence.text)
            self._answers[normalize.normalize(_asked(fact)[1])].add(normalize.normalize(fact.answer))
        self._counts = Counter(token for text in texts for token in set(normalize.tokens(text)))

    def ask(self, fact: Fact, count: int) -> tuple[Ask, ...]:
        """Return up to `count` different questions for a fact; none where the same words have another answer, too."""
        draw = Random(fact.id)
        asks, told = _asked(fact)
        if len(self._answers[normalize.normalize(told)]) > 1:
            return ()
        found: dict[str, Ask] = {}
        for _ in range(2 * count):
            question = self._word(asks, told, fact, draw)
            if question and len(found) < count and not normalize.contains(question, fact.answer):
                found.setdefault(normalize.normalize(question), Ask(FORM, question))
        return tuple(found.values())

    def _word(self, asks: str, told: str, fact: Fact, draw: Random) -> str:
        words = WORD.findall(told)
        telling = [word for word in words if says_something(word)]
        kept = self._some(words, draw.uniform(*SHARE), draw)
        about: list[str] = []
        if draw.random() < (0.85 if len(telling) < FEW else 0.4):
            about = [word for word in WORD.findall(fact.topic) if says_something(word)]
        if not kept and not about:
            return ""
        if len(kept) > 2 and draw.random() < 1 / 3:
            place = draw.randrange(1, len(kept))
            kept = kept[place:] + kept[:place]
        question = _arrange(asks, " ".join(kept), " ".join(about), draw)
        return question.lower() if draw.random() < 0.3 else question[:1].upper() + question[1:]

    def _some(self, words: Sequence[str], share: float, draw: Random) -> list[str]:
        """Return some words in their order: two of the rarest, a share of the others, small ones beside these."""
        places = [place for place, word in enumerate(words) if says_something(word)]
        rarest = sorted(places, key=lambda place: (self._rarity(words[place]), draw.random()))[:TELLING]
        kept = set(draw.sample(rarest, min(2, len(rarest))))
        kept |= {place for place in places if draw.random() < share}
        small = set(range(len(words))) - set(places)
        kept |= {place for place in small if {place - 1, place + 1} & kept and draw.random() < share * 0.6}
        return [words[place] for place in sorted(kept)]

    def _rarity(self, word: str) -> int:
        return min((self._counts[token] for token in normalize.tokens(word)), default=0)


def _asked(fact: Fact) -> tuple[str, str]:
    """Return the question words for a fact's answer, and the statement without it."""
    if fact.kind == "sentence":
        told = fact.relation.replace(GAP, " ")
        asks = {answer.text: answer.asks for answer in spans.answers(fact.evidence.text)}
        return asks.get(fact.answer, "what"), told
    told = fact.subject if fact.kind == "faq" else f"{fact.subject} {fact.relation}"
    whole = [answer.asks for answer in spans.answers(fact.answer) if answer.text == fact.answer]
    return (whole or ["what"])[0], told


def _arrange(asks: str, told: str, about: str, draw: Random) -> str:
    orders = (
        f"{asks} {told}{draw.choice(LINKS) if told and about else ' '}{about}?",
        f"{about}: {asks} {told}?" if about else f"{asks} {told}?",
        f"{about} {told}, {asks}?",
        f"{told} {about} {asks}?",
    )
    (order,) = draw.choices(orders, weights=(9, 5, 3, 3))
    return re.sub(r"\s+([?,:])", r"\1", " ".join(order.split()))
