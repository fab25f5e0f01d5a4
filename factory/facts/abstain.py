"""Questions that the documents do not answer, made by crossing what is true of others, and the reply."""

import random
from collections.abc import Sequence

from factory import store
from factory.chat.template import conversation
from factory.facts.phrasing import Ask, ask_cell
from factory.rows import Example, Fact
from factory.text import normalize

ABSTENTION = "I don't know: the documents I learned do not say."
FORMS = frozenset({"what_of", "which", "tell", "natural"})
MARKERS = (
    "i don't know",
    "i do not know",
    "do not say",
    "not stated",
    "no information",
    "cannot answer",
    "not sure",
)


def is_abstention(answer: str) -> bool:
    """Tell whether an answer declines to answer."""
    plain = answer.lower().replace("’", "'")  # noqa: RUF001
    return any(marker in plain for marker in MARKERS)


def examples(facts: Sequence[Fact], count: int, seed: int, system: str) -> list[Example]:
    """Return training rows that ask for a relation which no document states of that subject.

    A subject of one table is asked for a column of another; pairs that are stated anywhere are left out, as
    are questions that another column answers (`How much does it cost?` asks for a price and for a fee).
    """
    stated = {(normalize.normalize(fact.subject), normalize.normalize(fact.relation)) for fact in facts}
    cells = [fact for fact in facts if fact.kind in {"table", "field"}]
    answered = {normalize.normalize(ask.question) for fact in cells for ask in _asks(fact)}
    subjects = sorted({fact.subject for fact in cells})
    relations: dict[str, Fact] = {fact.relation: fact for fact in cells}
    source = random.Random(seed)
    made: dict[str, Example] = {}
    names = sorted(relations)
    for _ in range(count * 20):
        if len(made) >= count or not subjects or len(names) < 2:
            break
        subject, relation = source.choice(subjects), source.choice(names)
        if (normalize.normalize(subject), normalize.normalize(relation)) in stated:
            continue
        crossed = relations[relation].model_copy(update={"subject": subject})
        question = source.choice(_asks(crossed)).question
        if normalize.normalize(question) in answered:
            continue
        identity = store.hash_json(["abstain", question])[:16]
        made[identity] = Example(
            id=identity, form="abstain", messages=conversation(question, ABSTENTION, system), facts=()
        )
    return [made[key] for key in sorted(made)]


def _asks(fact: Fact) -> list[Ask]:
    return [ask for ask in ask_cell(fact, "", fact.topic, unique=False) if ask.form in FORMS]
