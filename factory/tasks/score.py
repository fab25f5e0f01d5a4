"""What counts as a right answer, and how sure a share of right answers is. Pure functions."""

from collections.abc import Sequence

from scipy.stats import binomtest

from factory.facts.abstain import is_abstention
from factory.text import normalize

CONFIDENCE = 0.95


def is_right(reply: str, answers: Sequence[str]) -> bool:
    """Tell whether a reply holds an accepted answer as whole words; with no answers, whether it abstains."""
    if not answers:
        return is_abstention(reply)
    return any(normalize.contains(reply, answer) for answer in answers)


def interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share; (0, 1) when nothing was asked."""
    if total == 0:
        return 0.0, 1.0
    found = binomtest(right, total).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
