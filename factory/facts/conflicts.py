"""Questions that two documents answer differently: which of them is believed, by the recipe's rule.

Only documents whose titles differ in a version or a year at most are compared: two editions of a price list, not the
spares of two models. Knows facts, titles and days; what one document says in two ways is not its business.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Literal

from factory.facts.extract import Draft
from factory.facts.phrasing import REVERSE_FORMS
from factory.rows import Chunk, Claim, Conflict, Evidence, Fact
from factory.text import normalize
from factory.text.quantities import MONTHS, SIGNS, Word, find, words

Rule = Literal["newest", "folders", "ask", "none"]
# The first of these that a document states is its day.
DATED_BY = ("updated", "last_updated", "date", "modified", "created")
# What a document says of itself is another thing in each edition.
OF_ITSELF = {
    "updated", "last updated", "date", "modified", "created", "version", "revision", "edition", "issue", "status",
    "author", "from", "to", "cc", "sent", "subject", "valid from", "effective from",
}  # fmt: skip
BRACKETS = "()[]{}.,:;_-–—"  # noqa: RUF001
EDITION = re.compile(
    r"v\d+(?:\.\d+)*|old|new|draft|final|copy|latest|current|archived|obsolete|superseded|outdated|revised|updated"
)
NUMBERED = re.compile(r"(?:v|ver|version|rev|revision|edition)\.? \d+(?:\.\d+)*|\d+(?:st|nd|rd|th) edition")
AHEAD = re.compile(r"(?:copy|draft) of|draft")
YEAR = re.compile(r"(?:19[89]|20[0-3])\d")
# Beside these a year says which one it is, not which edition.
PERIODICAL = {
    *MONTHS, "sept", "spring", "summer", "autumn", "winter", "week", "quarter", "term", "season", "report", "minutes",
    "accounts", "results", "review", "newsletter", "budget", "survey", "statement", "forecast", "summary",
}  # fmt: skip
MIN_WORD = 4  # letters: shorter ones before a number are a code, as in TD 2010
REMEMBERED = 2**15  # answers
DENIALS = {"not", "no", "non", "never", "without", "cannot"}


def settle(
    drafts: Sequence[Draft], chunks: Iterable[Chunk], rule: Rule, folders: Sequence[str]
) -> tuple[list[Draft], list[Conflict]]:
    """Return the facts without those that are not believed, and all conflicts.

    Args:
        drafts: facts of all documents.
        chunks: the documents; where one of those that disagree states no day, `newest` believes none of them.
        rule: the newest document is believed, or the one in the first of `folders`, or none.
        folders: folders below the source, the most trusted first; documents in none of them come last.
    """
    heads = {chunk.document: chunk for chunk in chunks}
    dates = {document: _day(chunk.metadata) for document, chunk in heads.items()}
    conflicts: list[Conflict] = []
    dropped: set[str] = set()
    for same in _comparable(drafts, {document: chunk.title for document, chunk in heads.items()}):
        facts = _distinct(same)
        if not _disagree(facts):
            continue
        believed = _believed(facts, dates, rule, folders)
        if believed:
            dropped |= {draft.fact.id for draft in same if _said(draft.fact.answer) != _said(believed.answer)}
        claims = (Claim(fact=fact, date=dates[fact.evidence.document]) for fact in facts)
        conflicts.append(
            Conflict(
                question=_question(same[0]), claims=tuple(claims), believed=believed.id if believed else None
            )
        )
    refuted = Refuted(conflicts)
    kept = [draft for draft in drafts if draft.fact.id not in dropped and not refuted.repeats(draft.fact)]
    return kept, conflicts


def name_of(title: str) -> str:
    """Return what a title names: normalised, without the versions and years at its ends.

    A year stays where it says of when something is: `Board minutes 2025` is no edition of `Board minutes 2026`.
    """
    parts = [part for piece in normalize.plain(title).split() if (part := piece.strip(BRACKETS))]
    while len(parts) > 1:
        if EDITION.fullmatch(parts[-1]) or _is_year(parts[-1], parts[-3:-1]):
            del parts[-1:]
        elif len(parts) > 2 and NUMBERED.fullmatch(" ".join(parts[-2:])):
            del parts[-2:]
        elif AHEAD.fullmatch(parts[0]) or _is_year(parts[0], parts[1:2]):
            del parts[:1]
        elif len(parts) > 2 and AHEAD.fullmatch(" ".join(parts[:2])):
            del parts[:2]
        else:
            break
    return normalize.normalize(" ".join(parts))


def _is_year(part: str, before: Sequence[str]) -> bool:
    """Tell whether a part of a title says of which year the edition is, from the one or two parts beside it."""
    beside = before[-1]
    is_word = beside.isalpha() and len(beside) >= MIN_WORD and beside not in PERIODICAL
    is_edition = EDITION.fullmatch(beside) or NUMBERED.fullmatch(" ".join(before))
    return bool(YEAR.fullmatch(part) and (is_word or is_edition))


def _day(metadata: Mapping[str, str]) -> str:
    """Return the day that a document states, as YYYY-MM-DD, or nothing."""
    for key in DATED_BY:
        try:
            return date.fromisoformat(metadata.get(key, "")[:10]).isoformat()
        except ValueError:
            continue
    return ""


def _comparable(drafts: Iterable[Draft], titles: Mapping[str, str]) -> Iterator[list[Draft]]:
    """Yield the facts of several documents that say the same of the same, under one title and heading."""
    names = {document: name_of(title) or document for document, title in titles.items()}
    plain = {document: normalize.normalize(title) for document, title in titles.items()}
    same: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
    for draft in drafts:
        fact, document = draft.fact, draft.fact.evidence.document
        subject, relation, topic = map(normalize.normalize, (fact.subject, fact.relation, fact.topic))
        about = ["" if part == plain[document] else part for part in (subject, topic)]
        if about[0] or relation not in OF_ITSELF:
            same[(names[document], relation, *about)].append(draft)
    for group in same.values():
        if len({draft.fact.evidence.document for draft in group}) > 1:
            yield group


def _distinct(same: Iterable[Draft]) -> list[Fact]:
    """Return one fact for each document and answer of its own that stands in its evidence."""
    found: dict[tuple[object, ...], Fact] = {}
    for draft in same:
        fact = draft.fact
        if normalize.contains(fact.evidence.text, fact.answer):
            found.setdefault((fact.evidence.document, _said(fact.answer)), fact)
    return list(found.values())


def _disagree(facts: Sequence[Fact]) -> bool:
    """Tell whether documents contradict each other, and none itself: that one speaks of several things."""
    by_document: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_document[fact.evidence.document].append(fact)
    return bool(facts) and not _common(facts) and all(map(_common, by_document.values()))


def _believed(
    facts: Sequence[Fact], dates: Mapping[str, str], rule: Rule, folders: Sequence[str]
) -> Fact | None:
    """Return the answer of the document that the rule prefers to all others; None if several differ or none is."""
    documents = [fact.evidence.document for fact in facts]
    if rule == "newest" and all(dates[document] for document in documents):
        newest = max(dates[document] for document in documents)
        return _common([fact for fact in facts if dates[fact.evidence.document] == newest])
    if rule == "folders":
        first = min(_rank(document, folders) for document in documents)
        return _common([fact for fact in facts if _rank(fact.evidence.document, folders) == first])
    return None


def _rank(document: str, folders: Sequence[str]) -> int:
    below = (n for n, folder in enumerate(folders) if document.startswith(f"{PurePosixPath(folder)}/"))
    return next(below, len(folders))


def _common(facts: Sequence[Fact]) -> Fact | None:
    """Return the shortest answer if all others agree with it."""
    shortest = min(facts, key=lambda fact: (len(fact.answer), fact.answer))
    return shortest if all(_agree(shortest, fact) for fact in facts) else None


def _agree(one: Fact, other: Fact) -> bool:
    """Tell whether one answer holds the other, numbers by their value, and none of them denies it."""
    if _said(one.answer) == _said(other.answer):
        return True
    pairs = [(_words(a), _words(b)) for a in one.answers for b in other.answers]
    holds = any(_holds(a, b) or _holds(b, a) for a, b in pairs)
    return holds and _denies(one) == _denies(other)


def _holds(whole: Sequence[Word], part: Sequence[Word]) -> bool:
    return bool(part) and any(find(part, whole))


def _denies(fact: Fact) -> bool:
    return any(word.text in DENIALS for word in _words(fact.answer))


@lru_cache(maxsize=REMEMBERED)
def _said(answer: str) -> tuple[str, ...]:
    """Return an answer as it is compared: its words, and its numbers with their signs."""
    numbers = (word for word in _words(answer) if word.is_number)
    signed = (f"{word.text} {word.unit if word.unit in SIGNS else ''}" for word in numbers)
    return (normalize.normalize(answer), *signed)


@lru_cache(maxsize=REMEMBERED)
def _words(answer: str) -> tuple[Word, ...]:
    return tuple(words(answer))


def _question(draft: Draft) -> str:
    forward = (ask.question for ask in draft.asks if ask.form not in REVERSE_FORMS)
    return next(forward, draft.asks[0].question)


class Refuted:
    """What is not believed of documents, and where they say it again in other words or another place."""

    def __init__(self, conflicts: Iterable[Conflict]) -> None:
        """Read which claims contradict a believed one."""
        by_document: dict[str, list[Fact]] = defaultdict(list)
        for conflict in conflicts:
            facts = [claim.fact for claim in conflict.claims]
            for believed in (fact for fact in facts if fact.id == conflict.believed):
                for fact in facts:
                    if not _agree(believed, fact):
                        by_document[fact.evidence.document].append(fact)
        self.documents = {document: _Statements(facts) for document, facts in by_document.items()}

    def repeats(self, fact: Fact) -> bool:
        """Tell whether a fact says again what its document is not believed in."""
        found = self.documents.get(fact.evidence.document)
        if not found:
            return False
        return found.has(fact) if fact.kind in {"table", "field"} else found.tells(fact.evidence)

    def tells(self, evidence: Evidence) -> bool:
        """Tell whether a stretch holds such a statement, or names its subject and its answer."""
        found = self.documents.get(evidence.document)
        return found is not None and found.tells(evidence)


class _Statements:
    """Those of one document."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        places = sorted((fact.evidence.start, fact.evidence.end) for fact in facts)
        self._starts = [start for start, _ in places]
        self._last_ends = list(accumulate((end for _, end in places), max))
        self._stated = {_statement(fact) for fact in facts}
        self._told = {(subject, answer) for subject, _, answer in self._stated}
        self._subject_sizes = {len(subject.split()) for subject, _ in self._told}
        self._answer_sizes = {len(answer.split()) for _, answer in self._told}
        self._subjects = {subject for subject, _ in self._told}
        self._answers = {answer for _, answer in self._told}

    def has(self, fact: Fact) -> bool:
        return _statement(fact) in self._stated

    def tells(self, evidence: Evidence) -> bool:
        before = bisect_left(self._starts, evidence.end)
        if before and self._last_ends[before - 1] > evidence.start:
            return True
        tokens = normalize.tokens(evidence.text)
        subjects = self._subjects & _runs(tokens, self._subject_sizes)
        answers = self._answers & _runs(tokens, self._answer_sizes) if subjects else ()
        return any((subject, answer) in self._told for subject in subjects for answer in answers)


def _statement(fact: Fact) -> tuple[str, str, str]:
    subject, relation, answer = map(normalize.normalize, (fact.subject, fact.relation, fact.answer))
    return subject, relation, answer


def _runs(tokens: Sequence[str], sizes: Iterable[int]) -> set[str]:
    return {
        " ".join(tokens[start : start + size]) for size in sizes for start in range(len(tokens) - size + 1)
    }
