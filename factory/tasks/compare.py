"""Two models on the questions both were asked: how many points apart they are, how sure that is, and whether by chance.

Questions on one document stand and fall together, so the interval comes from drawing documents anew, not questions.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.stats import binomtest

from factory.scores import Comparison, Reply
from factory.tasks.tally import DIGITS, counted, grouped

COMPARED = {  # kind and method of either side
    ("adapter", "closed_book", "base", "closed_book"),
    ("adapter", "closed_book", "base", "rag"),
    ("adapter", "rag", "base", "rag"),
    ("gguf", "closed_book", "adapter", "closed_book"),
}
RESAMPLES = 4000
SEED = 1
QUANTILES = (0.025, 0.975)
P_DIGITS = 6


def comparisons(replies: Sequence[Reply]) -> list[Comparison]:
    """Return, set by set, the adapter against its base and retrieval, and each GGUF file against the adapter.

    With retrieval the adapter is compared with its base with retrieval.
    """
    groups = grouped(replies)
    rows: list[Comparison] = []
    for (model, kind, question_set, method), mine in groups.items():
        for (other, other_kind, other_set, other_method), theirs in groups.items():
            if (kind, method, other_kind, other_method) in COMPARED and question_set == other_set:
                names = {"model": model, "method": method, "other": other, "other_method": other_method}
                rows += _compare(question_set, names, mine, theirs)
    return rows


def _compare(
    question_set: str, names: Mapping[str, str], mine: Sequence[Reply], theirs: Sequence[Reply]
) -> Iterator[Comparison]:
    """Yield the comparison, if both were asked a question that counts."""
    ours = {reply.id: reply for reply in counted(mine)}
    pairs = [(ours[other.id], other) for other in counted(theirs) if other.id in ours]
    if not pairs:
        return
    differences = [one.correct - other.correct for one, other in pairs]
    clusters = [one.source or one.id for one, _ in pairs]
    low, high = difference_interval(differences, clusters)
    gained, lost = differences.count(1), differences.count(-1)
    yield Comparison.model_validate(
        {
            **names,
            "question_set": question_set,
            "n": len(pairs),
            "documents": len(set(clusters)),
            "accuracy": round(sum(one.correct for one, _ in pairs) / len(pairs), DIGITS),
            "other_accuracy": round(sum(other.correct for _, other in pairs) / len(pairs), DIGITS),
            "difference": round((gained - lost) / len(pairs), DIGITS),
            "low": round(low, DIGITS),
            "high": round(high, DIGITS),
            "gained": gained,
            "lost": lost,
            "p": round(mcnemar(gained, lost), P_DIGITS),
        }
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return how likely chance alone splits the questions that one model alone got right so unevenly (exact test)."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def difference_interval(differences: Sequence[int], clusters: Sequence[str]) -> tuple[float, float]:
    """Return the 95 % interval of a mean difference by drawing whole clusters with replacement, the same every time.

    Args:
        differences: 1, 0 or -1 a question.
        clusters: which document each question is on; of a single one the questions are drawn, and the interval says
            nothing of other documents.
    """
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) == 1:
        place = np.arange(len(differences))
    sums, sizes = np.bincount(place, weights=differences), np.bincount(place)
    even = np.full(len(sums), 1 / len(sums))
    drawn = np.random.default_rng(SEED).multinomial(len(sums), even, size=RESAMPLES)
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), QUANTILES)
    return float(low), float(high)


def describe(row: Comparison) -> str:
    """Return a comparison as one line of text."""
    one, other = side(row.model, row.method), side(row.other, row.other_method)
    return (
        f"{one} against {other}, {row.question_set}: {points(row.difference)} points "
        f"[{points(row.low)}, {points(row.high)}]  p={chance(row.p)}  n={row.n}"
    )


def side(model: str, method: str) -> str:
    """Return how one side of a comparison is called: the model, and that it was given passages if it was."""
    return f"{model} with retrieval" if method == "rag" else model


def points(share: float) -> str:
    """Return a difference of shares in percentage points with its sign."""
    return f"{100 * share:+.1f}"


def chance(p: float) -> str:
    """Return a p-value as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
