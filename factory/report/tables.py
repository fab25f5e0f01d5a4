"""The rows of the report's larger tables: comparisons of two models, and documents. Computes no result."""

from collections import defaultdict
from typing import Any

from factory.report.model import Report
from factory.report.verdict import beyond_chance, main_set
from factory.scores import Comparison, DocumentScore, Score
from factory.tasks.compare import chance, points, side

DOCUMENT_SETS = {"unseen_phrasing": "held-out questions", "user": "your own questions"}
ORDER = ("user", "unseen_phrasing", "unseen_fact", "general")


def comparisons(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return by question set what stands in a row of the table of comparisons."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(report.comparisons, key=lambda row: ORDER.index(row.question_set)):
        groups[row.question_set].append(_comparison(row))
    return groups


def _comparison(row: Comparison) -> dict[str, Any]:
    better = "good" if row.difference > 0 else "bad"
    return {
        "model": side(row.model, row.method),
        "other": side(row.other, row.other_method),
        "n": row.n,
        "difference": points(row.difference),
        "tone": better if beyond_chance(row) else "",
        "interval": f"{points(row.low)} to {points(row.high)}",
        "p": chance(row.p),
    }


def hedged(report: Report) -> dict[str, list[Score]]:
    """Return by question set the scores of models of which is known how sure is sure enough."""
    groups: dict[str, list[Score]] = defaultdict(list)
    for score in sorted(report.scores, key=lambda score: ORDER.index(score.question_set)):
        if score.when_sure:
            groups[score.question_set].append(score)
    return groups


def document_sets(report: Report) -> dict[str, str]:
    """Return the question sets that were asked on documents, with their titles."""
    asked = {row.question_set for row in report.documents}
    return {name: title for name, title in DOCUMENT_SETS.items() if name in asked}


def documents(report: Report) -> list[dict[str, Any]]:
    """Return documents with their scores by question set, from the worst known on the set that decides."""
    by_name: dict[str, dict[str, DocumentScore]] = defaultdict(dict)
    for row in report.documents:
        by_name[row.document][row.question_set] = row
    decides = main_set(report.scores)

    def rank(name: str) -> tuple[bool, bool, float, int, str]:
        row = by_name[name].get(decides) or next(iter(by_name[name].values()))
        return row.question_set != decides, row.adapter is None, row.adapter or 0.0, -row.n, name

    return [{"document": name, "sets": by_name[name]} for name in sorted(by_name, key=rank)]
