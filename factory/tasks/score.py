"""What counts as a right answer, and how sure a share of right answers is. Pure functions."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from factory.facts.abstain import is_abstention
from factory.text import normalize
from factory.text.quantities import MONTHS, SIGNS, Word, find, items, stance, words

CONFIDENCE = 0.95
# Beside the right number one other of its kind may stand (a correction, the other end of a range); a second one
# makes the reply a list, from which anybody can pick the right number who knows it already.
MAX_OTHER_NUMBERS = 1


@dataclass(frozen=True)
class Grade:
    """How a reply did: `correct` is what is reported first, the others stand beside it.

    Attributes:
        correct: an accepted answer stands in the reply as whole words, numbers, amounts and dates compared by value;
            the reply to a question for a number does not list several.
        exact: the reply is an accepted answer and nothing else.
        contains: an accepted answer stands in the reply as whole words, spelled as it is.
        f1: the harmonic mean of the shares of common words, with the accepted answer that fits best.
        refused: the reply declines to answer.

    Where no answer exists, declining is right, and all five say whether it did.
    """

    correct: bool
    exact: bool
    contains: bool
    f1: float
    refused: bool


def grade(reply: str, answers: Sequence[str], question: str = "") -> Grade:
    """Return how a reply to a question did; with no answers it had to decline.

    An answer that begins with a number and has one other word at most, or holds a date, is a quantity. Its number must
    stand in the reply whole and with no other sign or unit ("12" is not in "12.5", "£5" not in "$5"), and at most
    `MAX_OTHER_NUMBERS` different numbers of the same kind beside it. Kinds are percentages, each currency, times,
    dates (each one item), and all else, of which only numbers with the answer's unit count if it has one; numbers of
    the question do not count. A yes or no is right when the reply says it first.
    """
    refused = is_abstention(reply)
    if not answers:
        return Grade(refused, refused, refused, float(refused), refused)
    said, asked = words(reply), {word.text for word in words(question) if word.is_number}
    wanted = [found for answer in answers if (found := words(answer))]
    return Grade(
        correct=any(_holds(said, answer, asked, reply) for answer in wanted),
        exact=any(len(said) == len(answer) and any(find(answer, said)) for answer in wanted),
        contains=any(normalize.contains(reply, answer) for answer in answers),
        f1=max((_f1(said, answer) for answer in wanted), default=0.0),
        refused=refused,
    )


def _holds(said: Sequence[Word], answer: Sequence[Word], asked: Collection[str], reply: str) -> bool:
    if [word.text for word in answer] in (["yes"], ["no"]):
        return stance(reply) == answer[0].text
    matches = find(answer, said)
    if not _is_quantity(answer):
        return any(matches)
    return any(len(_others(said, match, answer, asked)) <= MAX_OTHER_NUMBERS for match in matches)


def _is_quantity(answer: Sequence[Word]) -> bool:
    if any(word.unit == "date" for word in answer):
        return True
    return answer[0].is_number and sum(not word.is_number for word in answer) <= 1


def _others(
    said: Sequence[Word], match: Sequence[Word], answer: Sequence[Word], asked: Collection[str]
) -> set[frozenset[str]]:
    """Return the different numbers and dates of the answer's kind that are part of neither match nor question."""
    numbers = [(one, wanted) for one, wanted in zip(match, answer, strict=True) if one.is_number]
    matched, found = {word.text for word in match}, set()
    for item in items(said):
        texts = frozenset(word.text for word in item)
        is_new = not (texts <= matched or matched <= texts or texts - set(MONTHS) <= set(asked))
        number = next(word for word in item if word.is_number)
        if is_new and any(_is_like(number, one, wanted) for one, wanted in numbers):
            found.add(texts)
    return found


def _is_like(other: Word, one: Word, wanted: Word) -> bool:
    """Tell whether another number is of the kind of one that matched what was wanted."""
    if one.unit in SIGNS:
        return other.unit == one.unit
    if wanted.unit and wanted.unit not in SIGNS:
        return other.kind == wanted.kind
    return other.unit not in SIGNS


def _f1(said: Sequence[Word], answer: Sequence[Word]) -> float:
    common = (Counter(word.text for word in said) & Counter(word.text for word in answer)).total()
    return 2 * common / (len(said) + len(answer))


def interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share; (0, 1) when nothing was asked."""
    if total == 0:
        return 0.0, 1.0
    found = binomtest(right, total).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
