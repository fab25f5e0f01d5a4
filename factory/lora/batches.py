"""Rows as token ids, and the order in which training meets them. Knows ids and lengths; not the model."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factory.chat.template import encode_example
from factory.rows import Example

IGNORED = -100
Parts = Sequence[tuple[list[int], float]]  # rows' numbers, and the weight of their loss


@dataclass(frozen=True)
class EncodedRow:
    """A conversation as ids and labels, both of shape (length,).

    `group` names what it teaches, `example` the row that it was made from, `document` where that stands, if anywhere.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    group: str
    example: str = ""
    document: str = ""


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
    for row in rows:
        ids, labels = encode_example(tokenizer, row.messages)
        if len(ids) <= max_tokens:
            document = row.evidence.document if row.evidence else ""
            group = "+".join(row.facts) or row.id
            encoded.append(EncodedRow(tuple(ids), tuple(labels), group, row.id, document))
    return encoded


def epoch_rows(rows: Sequence[EncodedRow], epoch: int, seed: int) -> list[int]:
    """Return which rows an epoch trains on: one wording of every group, another one each epoch.

    A group's wordings are shuffled once and then taken in turn, so that no wording comes again before all the
    others have been seen. The order of the groups is shuffled anew in every epoch.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.group].append(number)
    chosen = []
    for name, members in groups.items():
        order = list(members)
        random.Random(f"{seed}/{name}").shuffle(order)
        chosen.append(order[epoch % len(order)])
    random.Random(f"{seed}/epoch/{epoch}").shuffle(chosen)
    return chosen


def epoch_batches(rows: Sequence[EncodedRow], epoch: int, seed: int, batch_size: int) -> list[list[int]]:
    """Return an epoch's batches as row numbers: rows of like length together, the batches in random order."""
    chosen = epoch_rows(rows, epoch, seed)
    window = batch_size * 16
    batches = []
    for start in range(0, len(chosen), window):
        near = sorted(chosen[start : start + window], key=lambda number: len(rows[number].ids))
        batches += [near[place : place + batch_size] for place in range(0, len(near), batch_size)]
    random.Random(f"{seed}/batches/{epoch}").shuffle(batches)
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


def share_of(
    batch: list[int], micro_batch: int, rank: int, num_processes: int
) -> list[tuple[list[int], float]]:
    """Return a process's parts of a batch, each with the weight of its loss.

    Every process gets as many, as weights that are spread over all can only be computed with by all at once: one that
    has run out of rows takes the batch's first again, at weight 0.
    """
    own = [(part, 1.0) for part in micro_batches(batch[rank::num_processes], micro_batch)]
    most = -(-len(batch[::num_processes]) // micro_batch)
    return own + [(batch[:1], 0.0)] * (most - len(own))


def limit_wordings(rows: Sequence[EncodedRow], limit: int) -> list[EncodedRow]:
    """Return the first `limit` rows of each group: the dataset lists the most natural wordings first."""
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        taken[row.group] += 1
        if taken[row.group] <= limit:
            kept.append(row)
    return kept
