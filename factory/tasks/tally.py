"""Replies counted: a score for each model and question set, and a row for each document. Asks and grades nothing."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from factory.scores import CALIBRATION, DocumentScore, Hedged, Reply, Score, Share
from factory.tasks.score import interval

DIGITS = 4  # of a share in a file
LEAST_UNSURE = 1e-4  # nats; what is surer counts as this
MIN_REPLIES = 10  # right ones and others, to tell from how sure is sure enough
# Whose answers are shown document by document; with retrieval the base's only, which the adapter is compared with.
COLUMNS = {("base", "closed_book"): "base", ("adapter", "closed_book"): "adapter", ("base", "rag"): "rag"}


def grouped(replies: Iterable[Reply]) -> dict[tuple[str, str, str, str], list[Reply]]:
    """Return replies by model, kind, question set and method, in the order asked."""
    groups: dict[tuple[str, str, str, str], list[Reply]] = defaultdict(list)
    for reply in replies:
        groups[(reply.model, reply.kind, reply.question_set, reply.method)].append(reply)
    return groups


def counted(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Return the replies to questions that have an answer; all of a set in which none has."""
    return [reply for reply in replies if reply.answers] or replies


def thresholds(replies: Iterable[Reply]) -> dict[str, float]:
    """Return how sure each model must be of a closed-book answer, as its replies to calibration questions tell.

    It is half-way between the means of right replies and of others on a logarithmic scale, a linear discriminant, which
    moves less from sample to sample than the best cut of each. A model with fewer than `MIN_REPLIES` of either, or
    whose right replies are no surer, has none.
    """
    right: dict[str, list[float]] = defaultdict(list)
    wrong: dict[str, list[float]] = defaultdict(list)
    for reply in replies:
        if reply.question_set == CALIBRATION and reply.method == "closed_book" and not reply.refused:
            (right if reply.correct else wrong)[reply.model].append(reply.sureness)
    found = {}
    for model in right:
        if min(len(right[model]), len(wrong[model])) >= MIN_REPLIES:
            one, other = _unsureness(right[model]), _unsureness(wrong[model])
            if one < other:
                found[model] = round(-math.exp((one + other) / 2), DIGITS)
    return found


def _unsureness(replies: Sequence[float]) -> float:
    return fmean(math.log(max(LEAST_UNSURE, -sureness)) for sureness in replies)


def scores(replies: Iterable[Reply], thresholds: Mapping[str, float] | None = None) -> list[Score]:
    """Return one score for each model, method and question set that counts, in the order asked.

    `thresholds` say by model how sure a closed-book answer has to be.
    """
    known = thresholds or {}
    return [
        _score(rows, known.get(model) if method == "closed_book" else None)
        for (model, _, question_set, method), rows in grouped(replies).items()
        if question_set != CALIBRATION
    ]


def _hedged(rows: Sequence[Reply], threshold: float) -> Hedged:
    def declines(row: Reply) -> bool:
        return row.refused or row.sureness < threshold

    able = [row for row in rows if row.answers]
    return Hedged(
        threshold=threshold,
        answered=_share([not declines(row) for row in able]),
        right=_share([row.correct for row in able if not declines(row)]),
        refused=_share([declines(row) for row in rows if not row.answers]),
    )


def _score(rows: Sequence[Reply], threshold: float | None) -> Score:
    asked, first = counted(rows), rows[0]
    right = _share([row.correct for row in asked])
    assert right is not None, "a group has replies, and some of them count"
    return Score.model_validate(
        {
            "model": first.model,
            "kind": first.kind,
            "question_set": first.question_set,
            "method": first.method,
            "n": right.n,
            "accuracy": right.share,
            "low": right.low,
            "high": right.high,
            "exact": round(sum(row.exact for row in asked) / right.n, DIGITS),
            "contains": round(sum(row.contains for row in asked) / right.n, DIGITS),
            "f1": round(sum(row.f1 for row in asked) / right.n, DIGITS),
            "refused": _share([row.refused for row in rows if not row.answers]),
            "wrongly_refused": _share([row.refused and not row.correct for row in rows if row.answers]),
            "when_sure": None if threshold is None else _hedged(rows, threshold),
        }
    )


def _share(hits: Sequence[bool]) -> Share | None:
    if not hits:
        return None
    low, high = (round(end, DIGITS) for end in interval(sum(hits), len(hits)))
    return Share(n=len(hits), share=round(sum(hits) / len(hits), DIGITS), low=low, high=high)


def describe(score: Score) -> str:
    """Return a score as one line of text, with what the model declined where that was asked or happened."""
    line = (
        f"{score.model:<28} {score.method:<12} {score.question_set:<18} "
        f"{score.accuracy:6.1%}  [{score.low:.1%}, {score.high:.1%}]  n={score.n}"
    )
    if score.refused and score.wrongly_refused:
        line += f"  refused {score.refused.share:.1%} of {score.refused.n} without an answer"
    if score.wrongly_refused and score.wrongly_refused.share:
        line += f"  wrongly refused {score.wrongly_refused.share:.1%}"
    if score.when_sure:
        line += f"  when sure: {_when_sure(score.when_sure)}"
    return line


def _when_sure(hedged: Hedged) -> str:
    parts = []
    if hedged.answered:
        parts.append(f"answers {hedged.answered.share:.1%}")
    if hedged.right:
        parts.append(f"{hedged.right.share:.1%} of them right")
    if hedged.refused:
        parts.append(f"declines {hedged.refused.share:.1%} of {hedged.refused.n} without an answer")
    return ", ".join(parts)


def by_document(replies: Iterable[Reply]) -> list[DocumentScore]:
    """Return how base, adapter and the base with retrieval did on each source document, set by set."""
    table: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for reply in replies:
        column = COLUMNS.get((reply.kind, reply.method))
        if reply.source and reply.answers and column:
            table[(reply.source, reply.question_set)][column].append(reply.correct)
    return [
        DocumentScore.model_validate(
            {"document": document, "question_set": question_set, "n": len(columns["adapter"])}
            | {name: round(sum(right) / len(right), DIGITS) for name, right in columns.items() if right}
            | {"rag_n": len(columns["rag"])}
        )
        for (document, question_set), columns in sorted(table.items())
    ]
