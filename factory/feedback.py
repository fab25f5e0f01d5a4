"""From corrected answers and votes in the playground to files to train with; what the test asks is refused."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.errors import UsageError
from factory.facts.feedback import CorrectedAnswer, tells
from factory.history.history import History, default_path
from factory.history.rows import Correction, VotedPair
from factory.recipe import Recipe, load_recipe
from factory.rows import Fact, Preference, Question, read_rows, write_rows
from factory.store import open_replacing
from factory.tasks.questions import general_questions, read_user_questions
from factory.text import normalize

FEEDBACK_FILE = "feedback.jsonl"
PREFERENCES_FILE = "preferences.jsonl"
# Shares of two questions' words that both have. One with more words asks the same with a preamble; one with another
# word asks something else (`the price of TD-40`, `the weight of TD-40`) unless it is very long.
NEAR_IF_LONGER = 0.7
NEAR = 0.9
NEAR_WITH_ANSWER = 0.5
MIN_CONTAINED_WORDS = 4


@dataclass(frozen=True)
class Refusal:
    """A question whose answers are not trained on, and why."""

    question: str
    why: str


@dataclass(frozen=True)
class Selection:
    """Corrected answers by what becomes of them."""

    kept: tuple[CorrectedAnswer, ...]
    refused: tuple[Refusal, ...]


def learn(recipe: Path, out: Path | None = None, history: Path | None = None) -> list[str]:
    """Write a run's `feedback.jsonl` and `preferences.jsonl` from the history and return the lines to say.

    Args:
        recipe: the recipe whose run is to learn.
        out: the run's folder, else build/<recipe name>.
        history: the playground's file, else the one in the cache folder.

    Raises:
        UsageError: the run has no test questions to compare with, or nothing that was said can be trained on.
    """
    loaded = load_recipe(recipe)
    folder = out or Path("build") / loaded.name
    held_out, withheld = _held_out(loaded, folder, recipe), _withheld(folder)
    corrections, votes = _said(history or default_path())
    found = select(_answers(corrections), held_out, withheld)
    pairs, refused = prefer(corrections, votes, found, held_out, withheld)
    reasons = [f"  {refusal.question!r}: {refusal.why}" for refusal in (*found.refused, *refused)]
    if not found.kept and not pairs:
        said = f"{len(found.refused)} corrected answer(s)" + (
            f" and {len(refused)} pair(s)" if refused else ""
        )
        raise UsageError("\n".join([f"All {said} are refused:", *reasons]))
    command = ["factory", "run", str(recipe), *(["--out", str(out)] if out else [])]
    answers_path, pairs_path = folder / FEEDBACK_FILE, folder / PREFERENCES_FILE
    lines = []
    if found.kept:
        with open_replacing(answers_path) as file:
            for row in found.kept:
                file.write(row.model_dump_json(exclude_none=True) + "\n")
        kept, left = len(found.kept), len(found.refused)
        lines.append(f"{kept} corrected answer(s) written to {answers_path}, {left} refused")
        command += ["--set", f"synthesize.feedback={answers_path}"]
    if pairs:
        write_rows(pairs_path, pairs)
        lines.append(f"{len(pairs)} preference(s) written to {pairs_path}, {len(refused)} refused")
        command += ["--set", f"train.preferences={pairs_path}"]
    for path, rows in ((answers_path, found.kept), (pairs_path, pairs)):
        if not rows:
            path.unlink(missing_ok=True)  # of an earlier time: it may hold what is refused now
    return [*lines, *reasons, "", "next:", f"  {shlex.join(command)}"]


def _said(path: Path) -> tuple[list[Correction], list[VotedPair]]:
    if not path.is_file():
        raise UsageError(f"There is no history {str(path)!r}: chat in the playground first, or name another")
    with History(path) as history:
        corrections, votes = history.feedback_with_gold(), history.voted_pairs()
    if not corrections and not votes:
        raise UsageError(
            f"{str(path)!r} holds no corrected answers and no votes: rewrite an answer or vote in the playground first"
        )
    return corrections, votes


def _answers(corrections: Iterable[Correction]) -> list[CorrectedAnswer]:
    return [
        CorrectedAnswer(question=row.question, answer=row.gold, response_id=row.response_id)
        for row in corrections
    ]


def prefer(
    corrections: Iterable[Correction],
    votes: Iterable[VotedPair],
    found: Selection,
    held_out: Sequence[Question],
    withheld: Sequence[Fact] = (),
) -> tuple[list[Preference], list[Refusal]]:
    """Return pairs of answers to train on, and those that would spoil the test by one of their answers.

    A pair is a kept corrected answer over what the model had said, or the winner of a blind vote over the other.
    """
    kept = {row.response_id for row in found.kept}
    said = [(row.question, row.gold, row.rejected) for row in corrections if row.response_id in kept]
    said += [(vote.question, vote.chosen, vote.rejected) for vote in votes]
    words, pairs, refused = _words(held_out), [], []
    for question, *answers in dict.fromkeys(said):
        good, bad = (answer.strip() for answer in answers)
        if not question.strip() or not good or not bad or good == bad:
            refused.append(Refusal(question, "its answers are empty or the same"))
            continue
        rows = [CorrectedAnswer(question=question, answer=answer) for answer in (good, bad)]
        why = next(filter(None, (_why_refused(row, words, withheld) for row in rows)), "")
        if why:
            refused.append(Refusal(question, why))
        else:
            pairs.append(Preference(prompt=question, chosen=good, rejected=bad))
    return pairs, refused


def _held_out(recipe: Recipe, folder: Path, path: Path) -> list[Question]:
    """Return every question that the run's models are measured with."""
    dataset = folder / "dataset"
    if not (dataset / "test.jsonl").is_file():
        raise UsageError(
            f"{str(folder)!r} holds no test questions to compare with: run `factory run {path}` first"
        )
    own = read_user_questions(recipe.evaluate.questions) if recipe.evaluate.questions else []
    split = [
        row
        for name in ("test", "valid", "calibration")
        for row in read_rows(dataset / f"{name}.jsonl", Question)
    ]
    return [*split, *own, *general_questions()]


def _withheld(folder: Path) -> list[Fact]:
    """Return the facts that no row may teach, since they measure whether the model abstains."""
    asked = {
        row.fact
        for name in ("test", "calibration")
        for row in read_rows(folder / "dataset" / f"{name}.jsonl", Question)
        if not row.answers
    }
    return [fact for fact in read_rows(folder / "dataset" / "facts.jsonl", Fact) if fact.id in asked]


def select(
    rows: Iterable[CorrectedAnswer], held_out: Sequence[Question], withheld: Sequence[Fact] = ()
) -> Selection:
    """Part what may be trained on from what would spoil the test; of two answers to a question, the later stays.

    Refused are questions that are, hold, or nearly are a held-out one, those of half its words and its answer, and
    what tells a withheld fact.
    """
    latest: dict[str, CorrectedAnswer] = {}
    refused = []
    for row in rows:
        replaced = latest.pop(normalize.normalize(row.question), None)
        if replaced:
            refused.append(Refusal(replaced.question, "a later answer replaces it"))
        latest[normalize.normalize(row.question)] = row
    words = _words(held_out)
    reasons = [(row, _why_refused(row, words, withheld)) for row in latest.values()]
    refused += [Refusal(row.question, why) for row, why in reasons if why]
    return Selection(tuple(row for row, why in reasons if not why), tuple(refused))


def _words(questions: Iterable[Question]) -> list[tuple[Question, set[str]]]:
    return [(question, set(normalize.tokens(question.question))) for question in questions]


def _why_refused(
    row: CorrectedAnswer, held_out: Sequence[tuple[Question, set[str]]], withheld: Sequence[Fact]
) -> str:
    words = set(normalize.tokens(row.question))
    if not words:
        return "it holds no word"
    for question, others in held_out:
        share = len(words & others) / len(words | others)
        if _same_words(words, others, share) or _contained(row.question, question.question):
            return f"it asks nearly what the test asks: {question.question!r}"
        if share >= NEAR_WITH_ANSWER and _same_answer(row, question):
            return f"it has the answer and half the words of a test question: {question.question!r}"
    if any(tells(row.question, row.answer, fact) for fact in withheld):
        return "it tells a fact that is withheld to measure abstention; curate.unseen_fact_share=0 withholds none"
    return ""


def _same_words(one: set[str], other: set[str], share: float) -> bool:
    """Tell whether two questions are nearly the same words; other numbers make another question."""
    longer = one <= other or other <= one
    numbers = {word for word in one ^ other if word[0].isdigit()}
    return share >= (NEAR_IF_LONGER if longer else NEAR) and not numbers


def _contained(one: str, other: str) -> bool:
    """Tell whether the shorter question, if it is long enough to mean something, stands in the other."""
    shorter, longer = sorted((one, other), key=len)
    return len(normalize.tokens(shorter)) >= MIN_CONTAINED_WORDS and normalize.contains(longer, shorter)


def _same_answer(row: CorrectedAnswer, question: Question) -> bool:
    """Tell whether a question that decides is answered alike; unseen phrasings ask for facts that are trained."""
    if question.question_set == "unseen_phrasing":
        return False
    return any(normalize.contains(row.answer, answer) for answer in question.answers)
