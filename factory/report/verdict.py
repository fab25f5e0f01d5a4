"""The verdict: one honest sentence on what a run achieved, from scores, gates and comparisons of two models.

Two models that were compared question by question differ when McNemar's exact test and the interval over documents
say so; others by Fisher's exact test on their two shares.
"""

import re
from collections.abc import Collection, Iterable, Sequence

from scipy.stats import fisher_exact

from factory.bundle.manifest import Gate
from factory.scores import Comparison, Score, Share

SIGNIFICANCE = 0.05
MIN_QUESTIONS = 30
# The share of all questions that a file may answer worse than the adapter before it is named: ours to choose, since
# Q8_0 is meant to lose nothing and the smaller types little. Whether chance explains it is said apart.
MAX_LOSS_8BIT, MAX_LOSS_4BIT = 0.02, 0.05
EIGHT_BIT = "-Q8_0."
QUESTIONS = {"user": "your {} questions", "unseen_phrasing": "{} held-out questions"}
NEAR = "{} held-out questions near the documents' wording"  # said beside the user's own


def pick(
    scores: Iterable[Score],
    kind: str,
    question_set: str,
    method: str = "closed_book",
    left_out: Collection[str] = (),
) -> Score | None:
    """Return the score of a kind of model on a question set, or None; of files that of the one that serves.

    As in the bundle that is Q8_0, else the file with the most bits, of those that are not `left_out` if there are any.
    """
    found = _scores_of(scores, kind, question_set, method)
    return max(found, key=lambda score: (score.model not in left_out, _bits(score.model)), default=None)


def _scores_of(scores: Iterable[Score], kind: str, question_set: str, method: str) -> list[Score]:
    wanted = (kind, question_set, method)
    return [score for score in scores if (score.kind, score.question_set, score.method) == wanted and score.n]


def _bits(file: str) -> tuple[bool, int]:
    """Return how precise the type in a file's name is, so that names can be compared."""
    found = re.search(r"Q(\d)", file)
    return EIGHT_BIT in file, int(found[1]) if found else 0


def main_set(scores: Iterable[Score]) -> str:
    """Return the question set that decides: the user's own when there is one."""
    return "user" if any(score.question_set == "user" for score in scores) else "unseen_phrasing"


def differ(one: Score, other: Score, comparisons: Iterable[Comparison]) -> bool:
    """Tell whether two scores on the same question set differ by more than chance explains."""
    if found := _find(one, other, comparisons):
        return beyond_chance(found)
    table = [[right := round(score.accuracy * score.n), score.n - right] for score in (one, other)]
    return float(fisher_exact(table).pvalue) < SIGNIFICANCE


def beyond_chance(row: Comparison) -> bool:
    """Tell whether a difference is significant and stays one when documents are drawn anew."""
    return row.p < SIGNIFICANCE and not row.low <= 0 <= row.high


def _find(one: Score, other: Score, comparisons: Iterable[Comparison]) -> Comparison | None:
    """Return the comparison of the first score's model against the second's, if there is one."""
    wanted = (one.question_set, one.model, one.method, other.model, other.method)
    for row in comparisons:
        if (row.question_set, row.model, row.method, row.other, row.other_method) == wanted:
            return row
    return None


def verdict(scores: Sequence[Score], gates: Sequence[Gate], comparisons: Sequence[Comparison] = ()) -> str:
    """Return what the run achieved in a few plain sentences: failed gates first, then the comparison."""
    failed = [gate for gate in gates if not gate.passed]
    parts = [_gate_sentence(failed, len(gates))] if failed else []
    question_set = main_set(scores)
    tuned = pick(scores, "adapter", question_set)
    small = pick(scores, "gguf", question_set, left_out={gate.subject for gate in failed})
    tuned, small = tuned or small, small if tuned else None
    if tuned is None:
        parts.append("Nothing was measured, so nothing can be said about what the model knows.")
        return " ".join(parts)
    asked = [(tuned, pick(scores, "base", question_set), QUESTIONS[question_set])]
    if question_set == "user" and (held_out := pick(scores, "adapter", "unseen_phrasing")):
        asked.append((held_out, pick(scores, "base", "unseen_phrasing"), NEAR))
    parts.append(_answers_sentence(asked, comparisons))
    whose = " of yours" if len(asked) > 1 else ""  # of two sets named, the one that all that follows is about
    if (sure := tuned.when_sure) and sure.answered and sure.right:
        parts.append(_sure_sentence(sure.answered, sure.right, whose or " of them"))
    if small:
        parts.append(_gguf_sentence(small, tuned, comparisons, whose))
        others = _scores_of(scores, "gguf", question_set, "closed_book")
        parts += [
            _loss_sentence(other, tuned, whose) for other in others if other != small and _loses(other, tuned)
        ]
    if retrieval := pick(scores, "base", question_set, "rag"):
        parts.append(_retrieval_sentence(retrieval, tuned, comparisons))
        if both := pick(scores, "adapter", question_set, "rag"):
            parts.append(_both_sentence(both, retrieval, comparisons))
    if tuned.n < MIN_QUESTIONS:
        parts.append(f"n is too small to tell: ask at least {MIN_QUESTIONS} questions.")
    return " ".join(parts)


def percent(share: float) -> str:
    """Return a share as people read it."""
    return f"{100 * share:.0f} %"


def _gate_sentence(failed: Sequence[Gate], number: int) -> str:
    first, name = failed[0], failed[0].name.replace("_", " ")
    return (
        f"No: {len(failed)} of {number} quality gates failed, the first {name} of {first.subject} "
        f"({_short(first.value)}, limit {_short(first.limit)})."
    )


def _short(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(score: Score) -> str:
    return {"adapter": "The adapter", "base": "The base"}.get(score.kind, score.model)


def _answers_sentence(
    asked: Sequence[tuple[Score, Score | None, str]], comparisons: Sequence[Comparison]
) -> str:
    """Return what a model answers of one or two question sets, each with the base's score and what is asked."""
    told = []
    for score, base, questions in asked:
        beside = _beside(score, base, comparisons)
        told.append(f"{percent(score.accuracy)} of {questions.format(score.n)} (base {beside})")
    said = f"{_name(asked[0][0])} answers {' and '.join(told)}"
    by_chance = all(base and not differ(score, base, comparisons) for score, base, _ in asked)
    return f"{said}: no proof that it learned." if by_chance else f"{said}."


def _beside(score: Score, base: Score | None, comparisons: Sequence[Comparison]) -> str:
    """Return the base's share, and what may not be concluded from it or has to be."""
    if base is None:
        return "not measured"
    share = percent(base.accuracy)
    if not differ(score, base, comparisons):
        return f"{share}, no significant difference"
    return share if score.accuracy > base.accuracy else f"{share}: training made it worse"


def _sure_sentence(answered: Share, right: Share, whose: str) -> str:
    sure = f"It is sure enough to answer {percent(answered.share)}{whose}"
    return f"{sure}, {percent(right.share)} of these rightly; factory ask declines the others."


def _gguf_sentence(small: Score, tuned: Score, comparisons: Sequence[Comparison], whose: str) -> str:
    if differ(small, tuned, comparisons):
        change = "loses by quantization" if small.accuracy < tuned.accuracy else "does better"
        return f"{small.model} {change}: {percent(small.accuracy)}{whose}."
    if _loses(small, tuned):
        return f"{_loss_sentence(small, tuned, whose).removesuffix('.')}, no significant difference."
    return f"{small.model} answers {percent(small.accuracy)}{whose}, no significant difference."


def _limit(file: str) -> float:
    return MAX_LOSS_8BIT if EIGHT_BIT in file else MAX_LOSS_4BIT


def _loses(file: Score, tuned: Score) -> bool:
    """Tell whether a file loses more of the adapter's answers than its type may."""
    return round(tuned.accuracy - file.accuracy, 4) > _limit(file.model)  # scores have four digits


def _loss_sentence(file: Score, tuned: Score, whose: str) -> str:
    lost, limit = 100 * (tuned.accuracy - file.accuracy), 100 * _limit(file.model)
    return f"{file.model} answers {percent(file.accuracy)}{whose}: {lost:.1f} points less, limit {limit:.0f}."


def _retrieval_sentence(retrieval: Score, tuned: Score, comparisons: Sequence[Comparison]) -> str:
    start = f"Retrieval with the untrained base answers {percent(retrieval.accuracy)}"
    mine, theirs = _on_shared(tuned, retrieval, comparisons)
    if retrieval.n != tuned.n:
        start += f" of {retrieval.n} ({_name(tuned).replace('The ', 'the ')} {percent(mine)} of the same)"
    if retrieval.n < MIN_QUESTIONS:
        return f"{start}: too few to compare."
    if not differ(tuned, retrieval, comparisons):
        return f"{start}: no significant difference."
    return f"{start}: for this corpus {'RAG' if theirs > mine else 'the adapter'} was better."


def _both_sentence(both: Score, retrieval: Score, comparisons: Sequence[Comparison]) -> str:
    start = f"With retrieval the adapter answers {percent(both.accuracy)} of {both.n}"
    if both.n < MIN_QUESTIONS:
        return f"{start}: too few to compare."
    if not differ(both, retrieval, comparisons):
        return f"{start}, no significant difference from the base with retrieval."
    return (
        f"{start}, {'more' if both.accuracy > retrieval.accuracy else 'less'} than the base with retrieval."
    )


def _on_shared(one: Score, other: Score, comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """Return both accuracies on the questions both were asked, since retrieval is asked fewer."""
    found = _find(one, other, comparisons)
    return (found.accuracy, found.other_accuracy) if found else (one.accuracy, other.accuracy)
