"""Questions that two documents answer differently: which of them is believed, by the recipe's rule.

Knows facts and what documents say of their date; a question that one document answers twice is not its business.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

from factory.facts.extract import Draft
from factory.facts.phrasing import REVERSE_FORMS
from factory.rows import Chunk, Fact, Row
from factory.text import normalize

Rule = Literal["newest", "folders", "ask", "none"]
DATED_BY = (
    "updated",
    "last_updated",
    "date",
    "modified",
    "created",
)  # the first of these that a document states
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Claim(Row):
    """What one document answers; `date` is empty where it states none."""

    document: str
    answer: str
    date: str


class Conflict(Row):
    """A question and what documents answer it; `believed` is the answer that is taught, None if neither is."""

    question: str
    claims: tuple[Claim, ...]
    believed: str | None


def dates_of(chunks: Iterable[Chunk]) -> dict[str, str]:
    """Return the day, as YYYY-MM-DD, that each document states in its metadata; empty if none."""
    return {chunk.document: _date(chunk.metadata) for chunk in chunks}


def settle(
    drafts: Sequence[Draft], dates: Mapping[str, str], rule: Rule, folders: Sequence[str]
) -> tuple[list[Draft], list[Conflict]]:
    """Return the facts without those that a believed one contradicts, and all conflicts.

    Args:
        drafts: facts of all documents.
        dates: the day of each document; where one of those that disagree has none, `newest` believes none of them.
        rule: the newest document is believed, or the one in the first of `folders`, or none.
        folders: folders below the source, the most trusted first; documents in none of them come last.
    """
    wrong: set[str] = set()
    conflicts = []
    for question, same in _disputed(drafts):
        believed = _believed(same, dates, rule, folders)
        if believed:
            wrong |= {draft.fact.id for draft in same if _said(draft) != normalize.normalize(believed)}
        claims = {
            (draft.fact.evidence.document, draft.fact.answer): Claim(
                document=draft.fact.evidence.document,
                answer=draft.fact.answer,
                date=dates[draft.fact.evidence.document],
            )
            for draft in same
        }
        conflicts.append(Conflict(question=question, claims=tuple(claims.values()), believed=believed))
    return [draft for draft in drafts if draft.fact.id not in wrong], conflicts


def _disputed(drafts: Sequence[Draft]) -> Iterator[tuple[str, list[Draft]]]:
    """Yield each first question of facts that two documents answer incompatibly, and these facts."""
    asked: dict[str, list[tuple[str, Draft]]] = defaultdict(list)
    for draft in drafts:
        first = next((ask.question for ask in draft.asks if ask.form not in REVERSE_FORMS), None)
        if first:
            asked[normalize.normalize(first)].append((first, draft))
    for same in asked.values():
        facts = [draft.fact for _, draft in same]
        if any(_disagree(one, other) for one, other in combinations(facts, 2)):
            yield same[0][0], [draft for _, draft in same]


def _disagree(one: Fact, other: Fact) -> bool:
    """Tell whether answers exclude each other: no word in common, or all but the numbers; else both may describe it."""
    if one.evidence.document == other.evidence.document:
        return False
    if set(map(normalize.normalize, one.answers)) & set(map(normalize.normalize, other.answers)):
        return False
    words, others = (normalize.tokens(fact.answer) for fact in (one, other))
    return not set(words) & set(others) or _without_numbers(words) == _without_numbers(others)


def _without_numbers(words: Sequence[str]) -> list[str]:
    return [re.sub(r"[\d.,]+", "#", word) for word in words]


def _believed(
    same: Sequence[Draft], dates: Mapping[str, str], rule: Rule, folders: Sequence[str]
) -> str | None:
    """Return the one answer of the document that the rule prefers to all others; None if several, or no rule, do."""
    documents = {draft.fact.evidence.document for draft in same}
    if rule == "newest" and all(dates[document] for document in documents):
        newest = max(dates[document] for document in documents)
        best = {document for document in documents if dates[document] == newest}
    elif rule == "folders":
        first = min(_rank(document, folders) for document in documents)
        best = {document for document in documents if _rank(document, folders) == first}
    else:
        return None
    answers = {_said(draft): draft.fact.answer for draft in same if draft.fact.evidence.document in best}
    return next(iter(answers.values())) if len(answers) == 1 else None


def _rank(document: str, folders: Sequence[str]) -> int:
    below = (number for number, folder in enumerate(folders) if document.startswith(folder.rstrip("/") + "/"))
    return next(below, len(folders))


def _said(draft: Draft) -> str:
    return normalize.normalize(draft.fact.answer)


def _date(metadata: Mapping[str, str]) -> str:
    found = (DAY.match(metadata.get(key, "")) for key in DATED_BY)
    return next((match[0] for match in found if match), "")
