"""Replies counted: a score for each model and question set, and a row for each document. Asks and grades nothing."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from factory.scores import Reply, Score
from factory.tasks.score import interval

DIGITS = 4  # of a share in a file


def grouped(replies: Iterable[Reply]) -> dict[tuple[str, str, str, str], list[Reply]]:
    """Return replies by model, kind, question set and method, in the order asked."""
    groups: dict[tuple[str, str, str, str], list[Reply]] = defaultdict(list)
    for reply in replies:
        groups[(reply.model, reply.kind, reply.question_set, reply.method)].append(reply)
    return groups


def counted(replies: Sequence[Reply]) -> Sequence[Reply]:
    """Return the replies to questions that have an answer; all of a set in which none has."""
    return [reply for reply in replies if reply.answers] or replies


def scores(replies: Iterable[Reply]) -> list[Score]:
    """Return one score for each model, method and question set, in the order asked."""
    return [_score(rows) for rows in grouped(replies).values()]


def _score(rows: Sequence[Reply]) -> Score:
    right = sum(row.correct for row in rows)
    low, high = interval(right, len(rows))
    first, n = rows[0], len(rows)
    return Score.model_validate(
        {
            "model": first.model,
            "kind": first.kind,
            "question_set": first.question_set,
            "method": first.method,
            "n": n,
            "accuracy": round(right / n, DIGITS),
            "low": round(low, DIGITS),
            "high": round(high, DIGITS),
            "exact": round(sum(row.exact for row in rows) / n, DIGITS),
            "contains": round(sum(row.contains for row in rows) / n, DIGITS),
            "f1": round(sum(row.f1 for row in rows) / n, DIGITS),
        }
    )


def by_document(replies: Iterable[Reply]) -> list[dict[str, Any]]:
    """Return the accuracy of base, adapter and retrieval on each source document's questions."""
    table: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for reply in replies:
        column = "rag" if reply.method == "rag" else reply.kind
        if reply.source and reply.answers and column in {"base", "adapter", "rag"}:
            table[reply.source][column].append(reply.correct)
    return [
        {"document": document, "n": len(columns["adapter"])}
        | {name: round(sum(right) / len(right), DIGITS) for name, right in sorted(columns.items()) if right}
        for document, columns in sorted(table.items())
    ]
