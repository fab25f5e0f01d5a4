"""Questions on cells of a table beside each other: true or false, which is more, and two cells at once.

Knows facts; not prompts, splits or models.
"""

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from factory import store
from factory.chat.template import conversation
from factory.facts.extract import Draft
from factory.facts.phrasing import label
from factory.rows import Example, Fact
from factory.text.quantities import find, items, words

TRUE_FALSE, COMPARE, SEVERAL = "true_false", "compare", "several"
FORMS = frozenset({TRUE_FALSE, COMPARE, SEVERAL})
EVERY = 2  # of the epochs, a question on two facts takes part in one: each of the two has wordings of its own
CLEAR = "what_of"  # the question that is left to a cell which no other document contradicts


def examples(drafts: Sequence[Draft], system: str) -> list[Example]:
    """Return rows on the cells whose subject and column no other document answers differently.

    Each cell is asked for truly and falsely, with another value of its column; compared with the next one of its
    column, where both are single numbers of a kind; and asked for together with the next one of its row.
    """
    cells = [
        draft.fact
        for draft in drafts
        if draft.fact.kind == "table" and any(ask.form == CLEAR for ask in draft.asks)
    ]
    columns = defaultdict[tuple[str, ...], list[Fact]](list)
    lines = defaultdict[tuple[str, ...], list[Fact]](list)
    for fact in cells:
        columns[fact.evidence.document, fact.topic, fact.relation].append(fact)
        lines[fact.evidence.document, fact.topic, fact.subject].append(fact)
    made = [
        row
        for column in columns.values()
        for row in (*_truths(column, system), *_comparisons(column, system))
    ]
    return made + [row for line in lines.values() for row in _together(line, system)]


def _truths(column: Sequence[Fact], system: str) -> Iterator[Example]:
    """Yield each cell's own value and one of another row, both to be judged; the wrong one is put right."""
    for fact in column:
        wrong = [other for other in column if not _holds_or_is_held(fact.answer, other.answer)]
        claim = f"the {label(fact.relation)} of {fact.subject} is"
        yield _row(TRUE_FALSE, f"True or false: {claim} {fact.answer}.", "True.", (fact,), system)
        yield _row(
            TRUE_FALSE,
            f"Is it right that {claim} {fact.answer}?",
            f"Yes, it is {fact.answer}.",
            (fact,),
            system,
        )
        if wrong:
            other = random.Random(fact.id).choice(wrong)
            for judged, no in (
                (f"True or false: {claim} {other.answer}.", "False"),
                (f"Is it right that {claim} {other.answer}?", "No"),
            ):
                yield _row(TRUE_FALSE, judged, f"{no}, it is {fact.answer}.", (fact,), system, other)


def _holds_or_is_held(one: str, other: str) -> bool:
    """Tell whether one of two answers stands in the other, numbers compared by value: then neither makes it false."""
    return any(any(find(words(part), words(whole))) for part, whole in ((one, other), (other, one)))


def _comparisons(column: Sequence[Fact], system: str) -> Iterator[Example]:
    """Yield which of two neighbours in a column has the higher value, and which the lower.

    A column named by a number (`2025`, `Version 2`) holds this and that.
    """
    if re.search(r"\d", column[0].relation):
        return
    numbers = [(fact, *quantity) for fact in column if (quantity := _quantity(fact.answer))]
    for (one, value, kind), (two, other, its) in itertools.pairwise(numbers):
        if kind != its or value == other:
            continue
        more, less = (one, two) if value > other else (two, one)
        first, second = random.Random(one.id + two.id).sample((one, two), 2)
        for word, right, beside in (("higher", more, less), ("lower", less, more)):
            question = f"Which has the {word} {label(one.relation)}: {first.subject} or {second.subject}?"
            yield _row(COMPARE, question, right.subject, (right, beside), system)


def _quantity(answer: str) -> tuple[float, str] | None:
    """Return the number that an answer consists of, and what it counts; None if it says more, or is a date or time."""
    said = words(answer)
    found = list(items(said))
    if len(found) != 1 or len(found[0]) != 1 or len(said) > 2:
        return None
    number = found[0][0]
    return None if number.unit in {"date", "time"} else (float(number.text), number.kind)


def _together(line: Sequence[Fact], system: str) -> Iterator[Example]:
    """Yield a question for two neighbours of a row."""
    for one, two in itertools.pairwise(line):
        question = f"What are the {label(one.relation)} and the {label(two.relation)} of {one.subject}?"
        yield _row(SEVERAL, question, f"{one.answer} and {two.answer}", (one, two), system)


def _row(
    form: str, question: str, answer: str, facts: tuple[Fact, ...], system: str, wrong: Fact | None = None
) -> Example:
    """Return a row on facts; `wrong` is where a false value stands."""
    names = tuple(fact.id for fact in facts)
    first, *others = (fact.evidence for fact in (*facts, *([wrong] if wrong else [])))
    return Example(
        id=store.hash_json([*names, form, question])[:16],
        form=form,
        messages=conversation(question, answer, system),
        facts=names,
        evidence=first,
        beside=tuple(others),
        every=EVERY if len(facts) > 1 else 1,
    )
