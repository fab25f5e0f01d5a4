"""Reading practised on bundled passages, whose questions are in words that the passages do not have, as people's are.

Questions made from a text's own words teach to find words, these to find answers. The passages are invented and say
nothing of anybody's documents; they and their questions were written for this project by a language model.
"""

import importlib.resources
from collections.abc import Callable, Iterator, Sequence

from factory import store
from factory.chat.context import with_context
from factory.chat.template import conversation
from factory.rows import Example, Row

FORM = "practice"


class Asked(Row):
    """An answer that stands in a passage, and what people would ask to be given it."""

    answer: str
    questions: tuple[str, ...]


class Passage(Row):
    """A stretch of a document with its title, and what is asked about it."""

    title: str
    text: str
    asked: tuple[Asked, ...]


def passages() -> list[Passage]:
    """Return the bundled passages."""
    text = (importlib.resources.files("factory.facts") / "practice.jsonl").read_text(encoding="utf-8")
    return [Passage.model_validate_json(line) for line in text.splitlines()]


def examples(
    shown: Sequence[Passage], an_epoch: int, room: int, count: Callable[[str], int], system: str
) -> Iterator[Example]:
    """Yield a row for each question below its passage; an epoch takes all those of some passages.

    Args:
        shown: the passages.
        an_epoch: about how many rows an epoch takes.
        room: the tokens that a passage may take; longer ones are left out.
        count: returns the tokens of a text.
        system: the system text.
    """
    fitting = [
        (passage, above) for passage in shown if count(above := f"{passage.title}\n{passage.text}") <= room
    ]
    num_questions = sum(len(asked.questions) for passage, _ in fitting for asked in passage.asked)
    every = max(1, round(num_questions / an_epoch))
    for passage, above in fitting:
        for asked in passage.asked:
            for question in asked.questions:
                turn = with_context([above], question)
                yield Example(
                    id=store.hash_json([FORM, turn])[:16],
                    form=FORM,
                    messages=conversation(turn, asked.answer, system),
                    facts=(),
                    every=every,
                )
