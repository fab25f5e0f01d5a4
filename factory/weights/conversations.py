"""The conversations of a dataset folder as token ids, to measure weights and files on the user's own text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from factory.chat.template import conversation, encode_prompt, render
from factory.errors import ArtifactError
from factory.rows import OPEN_BOOK, Example, Message, Question, read_rows


@dataclass(frozen=True)
class Conversation:
    """One exchange: its messages, the ids of all of them, and those up to where the assistant begins."""

    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a base, adapter or merged folder."""
    return transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, messages: Sequence[Message]) -> Conversation:
    """Return a conversation that ends with the assistant's turn, encoded by the tokenizer's own template."""
    text = render(tokenizer, messages, add_generation_prompt=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Conversation(tuple(messages), tuple(ids), tuple(encode_prompt(tokenizer, messages[:-1])))


def read_messages(path: Path, system: str = "") -> Iterator[tuple[Message, ...]]:
    """Yield the conversations of a file of examples, or of questions with their first accepted answer.

    Of examples only those that ask for facts without passages count, if there are any. Questions that must be abstained
    from have no answer and are left out; a missing file holds nothing.
    """
    if not path.exists():
        return
    try:
        examples = list(read_rows(path, Example))
        on_facts = [row for row in examples if row.facts and row.form != OPEN_BOOK]
        rows = [row.messages for row in on_facts or examples]
    except ArtifactError:
        asked = [row for row in read_rows(path, Question) if row.answers]
        rows = [conversation(row.question, row.answers[0], system) for row in asked]
    yield from (messages for messages in rows if messages and messages[-1].role == "assistant")


def spread(rows: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` rows, evenly over all of them and in their order."""
    if count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]
