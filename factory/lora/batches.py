"""Rows as token ids, and the order in which training meets them. Knows ids and lengths; not the model."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, takewhile
from typing import Any

import torch

from factory import store
from factory.chat.context import split_turn
from factory.chat.template import encode_examples
from factory.rows import Example

IGNORED = -100
ENCODED_AT_ONCE = 1024  # rows: nearly three times as fast as one by one
Parts = Sequence[tuple[list[int], float]]  # rows' numbers, and the weight of their loss


@dataclass(frozen=True)
class EncodedRow:
    """A conversation as ids and labels, both of shape (length,).

    `group` names what it teaches, `example` the row that it was made from, `document` where that stands and is to be
    remembered from, if anywhere. `context` is what stands above its question, the same for rows that share it. It is
    trained on in one of `every` epochs, the same for all rows of a group and of a context.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    group: str
    example: str = ""
    document: str = ""
    context: str = ""
    every: int = 1


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right: `ids`, `mask` and `labels` of shape (rows, length)."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: str) -> "Batch":
        """Return the batch on a device."""
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device))


def encode(tokenizer: Any, rows: Sequence[Example], max_tokens: int) -> list[EncodedRow]:
    """Return the rows that fit into `max_tokens`; cutting the others would teach half answers."""
    encoded = []
    found = chain.from_iterable(
        encode_examples(tokenizer, [row.messages for row in rows[start : start + ENCODED_AT_ONCE]])
        for start in range(0, len(rows), ENCODED_AT_ONCE)
    )
    for row, (ids, labels) in zip(rows, found, strict=True):
        if len(ids) <= max_tokens:
            context = split_turn(row.messages[-2].content)[0]
            document = row.evidence.document if row.evidence and not context else ""
            encoded.append(
                EncodedRow(tuple(ids), tuple(labels), row.group, row.id, document, context, row.every)
            )
    return encoded


def epoch_rows(rows: Sequence[EncodedRow], epoch: int, seed: int) -> list[int]:
    """Return which rows an epoch trains on: one wording of every group whose turn it is, another one each time.

    A group's wordings are shuffled once and then taken in turn, so that no wording comes again before all the
    others have been seen. The order of the groups is shuffled anew in every epoch. Groups that share a context have
    their turns together.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.group].append(number)
    chosen = []
    for name, members in groups.items():
        first = rows[members[0]]
        waits = random.Random(f"{seed}/turn/{first.context or name}").randrange(first.every)
        turn, is_later = divmod(epoch + waits, first.every)
        if not is_later:
            order = list(members)
            random.Random(f"{seed}/{name}").shuffle(order)
            chosen.append(order[turn % len(order)])
    random.Random(f"{seed}/epoch/{epoch}").shuffle(chosen)
    return chosen


def epoch_batches(rows: Sequence[EncodedRow], epoch: int, seed: int, batch_size: int) -> list[list[int]]:
    """Return an epoch's batches as row numbers, in random order.

    Rows with the same context lie side by side in one batch, filled up with rows without any; of the others those of
    like length are together.
    """
    chosen = epoch_rows(rows, epoch, seed)
    alone = [number for number in chosen if not rows[number].context]
    batches = _context_batches(rows, [number for number in chosen if rows[number].context], alone, batch_size)
    window = batch_size * 16
    for start in range(0, len(alone), window):
        near = sorted(alone[start : start + window], key=lambda number: len(rows[number].ids))
        batches += [near[place : place + batch_size] for place in range(0, len(near), batch_size)]
    random.Random(f"{seed}/batches/{epoch}").shuffle(batches)
    return batches


def order_digest(rows: Sequence[EncodedRow], batches: Sequence[Sequence[int]]) -> str:
    """Return a SHA-256 of all rows and of a run's batches: what a run that goes on has to meet again."""
    return store.hash_json([[[row.ids, row.labels] for row in rows], batches])


def _context_batches(
    rows: Sequence[EncodedRow], chosen: Sequence[int], alone: list[int], batch_size: int
) -> list[list[int]]:
    """Return batches for rows with a context; what fills them up is taken out of `alone`."""
    contexts: dict[str, list[int]] = defaultdict(list)
    for number in chosen:
        contexts[rows[number].context].append(number)
    batches: list[list[int]] = []
    for part in (part for same in contexts.values() for part in micro_batches(same, batch_size)):
        if batches and len(batches[-1]) + len(part) <= batch_size:  # none were left to fill it up
            batches[-1] += part
        else:
            batches.append(part)
        room = batch_size - len(batches[-1])
        batches[-1] += [alone.pop() for _ in range(min(room, len(alone)))]
    return batches


def collate(rows: Sequence[EncodedRow], pad_id: int) -> Batch:
    """Return rows as one padded batch."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for number, row in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = torch.tensor(row.ids)
        mask[number, :size] = 1
        labels[number, :size] = torch.tensor(row.labels)
    return Batch(ids, mask, labels)


def num_tokens(rows: Sequence[EncodedRow], chosen: Sequence[int]) -> int:
    """Return the tokens of chosen rows; those that the rows of one context begin with count once."""
    contexts: dict[str, list[int]] = defaultdict(list)
    for number in chosen:
        contexts[rows[number].context].append(number)
    alone = sum(len(rows[number].ids) for number in contexts.pop("", []))
    return alone + sum(_num_together([rows[number].ids for number in same]) for same in contexts.values())


def _num_together(rows: Sequence[tuple[int, ...]]) -> int:
    pairs = zip(min(rows), max(rows), strict=False)  # in order, all others lie between these two
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return sum(len(ids) for ids in rows) - (len(rows) - 1) * shared


def num_labels(row: EncodedRow) -> int:
    """Return how many tokens of a row carry loss."""
    return sum(label != IGNORED for label in row.labels[1:])


def answer_ids(row: EncodedRow) -> list[int]:
    """Return the tokens of a row that carry loss."""
    return [label for label in row.labels[1:] if label != IGNORED]


def micro_batches(batch: list[int], size: int) -> Iterator[list[int]]:
    """Yield a batch's rows in parts of at most `size`."""
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def parts_of(rows: Sequence[EncodedRow], batch: Sequence[int], size: int, *, shared: bool) -> list[list[int]]:
    """Return a batch's rows in parts of at most `size`.

    With an engine that computes once what all rows of a part begin with (`shared`), rows side by side with the same
    context have their own.
    """
    if not shared:
        return list(micro_batches(list(batch), size))
    same_context = groupby(batch, key=lambda number: rows[number].context)
    return [part for _, same in same_context for part in micro_batches(list(same), size)]


def share_of(
    rows: Sequence[EncodedRow],
    batch: list[int],
    micro_batch: int,
    rank: int,
    num_processes: int,
    *,
    shared: bool,
) -> list[tuple[list[int], float]]:
    """Return a process's parts of a batch, as `parts_of` makes them, each with the weight of its loss.

    Every process gets as many, as weights that are spread over all can only be computed with by all at once: one that
    has run out of rows takes the batch's first again, at weight 0.
    """
    shares = [
        parts_of(rows, batch[start::num_processes], micro_batch, shared=shared)
        for start in range(num_processes)
    ]
    own = [(part, 1.0) for part in shares[rank]]
    return own + [(batch[:1], 0.0)] * (max(map(len, shares)) - len(own))


def limit_wordings(rows: Sequence[EncodedRow], limit: int) -> list[EncodedRow]:
    """Return the first `limit` rows of each group: the dataset lists the most natural wordings first."""
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        taken[row.group] += 1
        if taken[row.group] <= limit:
            kept.append(row)
    return kept
