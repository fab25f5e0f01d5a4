"""Pairs of answers of which people prefer one: read from a file, checked against the test, as token ids."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.chat.template import encode_example
from factory.errors import TrainError
from factory.lora.batches import EncodedRow
from factory.rows import Message, Preference, Question, read_given
from factory.text import normalize

logger = logging.getLogger(__name__)
SHAPE = '{"prompt": …, "chosen": …, "rejected": …}'


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected answers as rows, a pair at the same place in both; `num_left_out` were too long."""

    chosen: tuple[EncodedRow, ...]
    rejected: tuple[EncodedRow, ...]
    num_left_out: int


def read_preferences(path: Path, held_out: Iterable[Question]) -> list[Preference]:
    """Return the rows of a JSON Lines file but those that ask what the test asks, which are logged.

    Raises:
        TrainError: the file cannot be read, a line is no preference, or none is left.
    """
    given = read_given(path, Preference, SHAPE, TrainError)
    tested = {normalize.normalize(question.question) for question in held_out}
    kept = [row for row in given if normalize.normalize(row.messages[-1].content) not in tested]
    if not kept:
        why = f"all {len(given)} ask what the test asks" if given else "it is empty"
        raise TrainError(f"train.preferences: {str(path)!r} holds nothing to train on, since {why}")
    if len(kept) < len(given):
        logger.warning(
            "%d of %d preferences ask what the test asks: they are left out",
            len(given) - len(kept),
            len(given),
        )
    return kept


def encode_pairs(tokenizer: Any, rows: Iterable[Preference], system: str, max_tokens: int) -> Pairs:
    """Return the pairs whose answers both fit into `max_tokens`, under the system text unless they have their own.

    Raises:
        TrainError: none fits.
    """
    made = []  # each pair a group of its own: an epoch takes one row of every group
    for number, row in enumerate(rows):
        answers = (row.chosen, row.rejected)
        made.append([_encode(tokenizer, row, answer, system, str(number)) for answer in answers])
    kept = [pair for pair in made if max(len(row.ids) for row in pair) <= max_tokens]
    if not kept:
        raise TrainError(
            f"All {len(made)} rows of train.preferences are longer than train.max_tokens={max_tokens}: raise it"
        )
    chosen, rejected = zip(*kept, strict=True)
    return Pairs(chosen, rejected, len(made) - len(kept))


def _encode(tokenizer: Any, row: Preference, answer: str, system: str, group: str) -> EncodedRow:
    head = (Message(role="system", content=system),) if system and row.messages[0].role != "system" else ()
    ids, labels = encode_example(tokenizer, (*head, *row.messages, Message(role="assistant", content=answer)))
    return EncodedRow(tuple(ids), tuple(labels), group)
