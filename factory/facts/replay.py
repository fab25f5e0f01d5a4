"""General questions mixed into training, answered as the base answers them; none is in the probe."""

import importlib.resources
from collections.abc import Sequence

from factory import store
from factory.chat.template import conversation
from factory.rows import Example

FORM = "replay"


def questions() -> list[str]:
    """Return the bundled general questions."""
    text = (importlib.resources.files("factory.facts") / "replay.txt").read_text(encoding="utf-8")
    return text.splitlines()


def examples(pairs: Sequence[tuple[str, str]], an_epoch: int, system: str) -> list[Example]:
    """Return a training row for each question with its answer, of which an epoch takes about so many."""
    every = max(1, round(len(pairs) / an_epoch))
    return [
        Example(
            id=store.hash_json(["replay", question])[:16],
            form=FORM,
            messages=conversation(question, answer, system),
            facts=(),
            every=every,
        )
        for question, answer in pairs
    ]
