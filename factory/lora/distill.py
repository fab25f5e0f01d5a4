"""Context distillation's teacher: what the base says of an answer when the passage stands in its prompt.

Knows rows, their evidence and an engine; not the loss that is made of it.
"""

import logging
import pickle
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from factory.chat.context import with_context
from factory.lora import checkpoint, distributed
from factory.lora.batches import EncodedRow, answer_ids, encode, micro_batches
from factory.lora.engine import Engine
from factory.lora.losses import SoftTargets
from factory.rows import OPEN_BOOK, Example, Fact, Message

logger = logging.getLogger(__name__)
TOP = 32  # tokens a place; Doc-to-LoRA's own baseline keeps 16
TEACHER_BATCH = 16  # rows; the wordings of a fact lie behind one copy of its passage
TEACHER_TOKENS = 1024  # a row's; every base reads as many, and evidence is a sentence or a line


def passage_of(row: Example, facts: Mapping[str, Fact]) -> str:
    """Return what a row's evidence says, under its topic; empty when it rests on no document or has passages already.

    A table's line does not say what its columns are called, so the fact's own column is named below it. The
    dataset's evidence is used, not the document's text around it, which may hold personal data and withheld facts.
    """
    if row.evidence is None or row.form == OPEN_BOOK:
        return ""
    fact = next((facts[name] for name in row.facts if name in facts), None)
    if fact is None:
        return row.evidence.text
    column = f"\n{fact.relation}: {fact.answer}" if fact.kind == "table" else ""
    return f"{fact.topic}\n{row.evidence.text}{column}"


def with_passage(row: Example, passage: str) -> Example:
    """Return a row whose question has the passage above it."""
    *before, question, answer = row.messages
    asked = Message(role="user", content=with_context([passage], question.content))
    return row.model_copy(update={"messages": (*before, asked, answer)})


def teacher_rows(
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    examples: Sequence[Example],
    facts: Mapping[str, Fact],
) -> list[EncodedRow | None]:
    """Return what the teacher reads for each row, grouped by passage; None without evidence or where it is too long."""
    known = {example.id: example for example in examples}
    taught: list[EncodedRow | None] = []
    for row in rows:
        passage = passage_of(known[row.example], facts)
        asked = [with_passage(known[row.example], passage)] if passage else []
        found = encode(tokenizer, asked, TEACHER_TOKENS)
        taught.append(EncodedRow(found[0].ids, found[0].labels, passage, row.example) if found else None)
    return taught


def soft_targets(
    engine: Engine, teachers: Sequence[EncodedRow | None], shares: Sequence[float], cache: Path
) -> dict[int, SoftTargets]:
    """Return the teacher's targets by row number, from the cache file or else from the engine; they fill the file.

    `shares` are their weights by row number; a token whose answer the teacher does not find likeliest has weight 0.
    Rows are read in the same batches in every run, since a row's last digits depend on what it is computed with.
    """
    rows = {number: row for number, row in enumerate(teachers) if row is not None}
    sizes = {number: len(answer_ids(row)) for number, row in rows.items()}
    kept = _read(cache, sum(sizes.values()))
    if kept is None:
        kept = _ask(engine, rows)
        if distributed.is_main():
            checkpoint.save_file(cache, {"ids": kept[0], "probs": kept[1]})
    ids, probs = (torch.split(values, list(sizes.values())) for values in kept)
    found = {}
    for number, top, likely in zip(rows, ids, probs, strict=True):
        right = top[:, 0] == torch.tensor(answer_ids(rows[number]))
        found[number] = SoftTargets(top, likely, shares[number] * right.float())
    return found


def _ask(engine: Engine, rows: Mapping[int, EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and probabilities at all answers, in the order of the rows' numbers."""
    order = sorted(rows, key=lambda number: (rows[number].group, number))
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for _, same in groupby(order, key=lambda number: rows[number].group):
        for part in micro_batches(list(same), TEACHER_BATCH):
            ids, probs = engine.top_probs([rows[number] for number in part], TOP)
            sizes = [len(answer_ids(rows[number])) for number in part]
            each = zip(part, ids.int().cpu().split(sizes), probs.cpu().split(sizes), strict=True)
            found.update({number: (top, shares) for number, top, shares in each})
    empty = (torch.empty((0, 1), dtype=torch.int32), torch.empty((0, 1)))
    values = [found[number] for number in rows] or [empty]
    return torch.cat([top for top, _ in values]), torch.cat([shares for _, shares in values])


def _read(cache: Path, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    if not cache.exists():
        return None
    try:
        state = torch.load(cache, weights_only=True)
        ids, probs = state["ids"], state["probs"]
        if len(ids) == len(probs) == num_tokens:
            return ids, probs
        logger.warning(
            "%s is of %d tokens, not %d: asking the teacher again", cache.name, len(ids), num_tokens
        )
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        logger.warning("%s is damaged (%s): asking the teacher again", cache.name, error)
    return None
