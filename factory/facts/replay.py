"""General questions mixed into training, so that the model keeps what it knew; none is in the probe."""

import importlib.resources
import json

from factory import store
from factory.chat.template import conversation
from factory.rows import Example


def examples(system: str) -> list[Example]:
    """Return one training row for each bundled general question."""
    text = (importlib.resources.files("factory.facts") / "replay.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        Example(
            id=store.hash_json(["replay", row["question"]])[:16],
            form="replay",
            messages=conversation(row["question"], row["answer"], system),
            facts=(),
        )
        for row in rows
    ]
