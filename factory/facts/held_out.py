"""Questions that are asked and never trained on: unseen phrasings, withheld facts, and the check that none leaked."""

import random
from collections.abc import Collection, Mapping, Sequence

from factory import store
from factory.chat.context import split_turn
from factory.errors import CurateError
from factory.facts import loose
from factory.facts.phrasing import TEST_FORMS
from factory.rows import Example, Fact, Question
from factory.scores import CALIBRATION
from factory.text import normalize

SHORT_ANSWER_WORDS = 15


def prompt_of(row: Example) -> str:
    """Return a row's question in one spelling, without passages that may stand above it."""
    return normalize.normalize(split_turn(row.messages[-2].content)[1])


def phrasing_questions(
    rows: Sequence[Example],
    train: Sequence[Example],
    facts: Mapping[str, Fact],
    seed: int,
    forms: Collection[str] = TEST_FORMS,
    question_set: str = "unseen_phrasing",
) -> list[Question]:
    """Return questions of `rows` in some forms, one for each fact that `train` teaches, in random order."""
    trained = {fact for row in train for fact in row.facts}
    able = [
        row
        for row in rows
        if row.form in forms
        and row.facts[0] in trained
        and len(facts[row.facts[0]].answer.split()) <= SHORT_ANSWER_WORDS
        and not normalize.contains(row.messages[-2].content, row.messages[-1].content)
    ]
    random.Random(seed).shuffle(able)
    first: dict[str, Example] = {}
    for row in able:
        first.setdefault(row.facts[0], row)
    return [
        _question(row, facts[row.facts[0]], question_set, facts[row.facts[0]].answers)
        for row in first.values()
    ]


def unseen_questions(rows: Sequence[Example], unseen: set[str], facts: Mapping[str, Fact]) -> list[Question]:
    """Return one question for each withheld fact that has one in a held-out form; the right reply is to abstain."""
    chosen: dict[str, Question] = {}
    for row in rows:
        if row.facts and row.facts[0] in unseen and row.form in TEST_FORMS:
            fact = facts[row.facts[0]]
            chosen.setdefault(fact.id, _question(row, fact, "unseen_fact", ()))
    return list(chosen.values())


def calibration_questions(
    rows: Sequence[Example],
    train: Sequence[Example],
    unseen: set[str],
    facts: Mapping[str, Fact],
    count: int,
    seed: int,
) -> list[Question]:
    """Return loose wordings that tell how sure is sure enough: `count` of trained facts at most, and of withheld ones.

    People ask like that rather than like the held-out forms, and how sure a model is depends on it. Of the trained
    facts a quarter at most is asked for, one wording each.
    """
    known = phrasing_questions(train, train, facts, seed, {loose.FORM}, CALIBRATION)
    unknown = [
        _question(row, facts[row.facts[0]], CALIBRATION, ())
        for row in rows
        if row.form == loose.FORM and row.facts[0] in unseen
    ]
    random.Random(seed).shuffle(unknown)
    return known[: min(count, len(facts) // 4)] + unknown[:count]


def assert_no_leak(train: Sequence[Example], held_out: Sequence[Question]) -> int:
    """Raise when a held-out question stands in the training rows; returns 0, the number of leaks found.

    Raises:
        CurateError: a question is equal to a training row's after normalising.
    """
    prompts = {prompt_of(row) for row in train}
    leaked = [question for question in held_out if normalize.normalize(question.question) in prompts]
    if leaked:
        raise CurateError(
            f"{len(leaked)} held-out question(s) stand in the training rows, first {leaked[0].question!r}; "
            "this is a defect of the curate stage, please report it"
        )
    return len(leaked)


def _question(row: Example, fact: Fact, question_set: str, answers: tuple[str, ...]) -> Question:
    return Question(
        id=store.hash_json([question_set, row.id])[:16],
        question=row.messages[-2].content,
        answers=answers,
        question_set=question_set,
        form=row.form,
        fact=fact.id,
        source=fact.evidence.document,
    )
