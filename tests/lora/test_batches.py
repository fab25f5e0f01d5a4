"""Rows as ids: what carries loss, which wording comes when, and how rows are padded and ordered."""

import random
from collections import Counter

import pytest
import torch

from factory.chat.template import end_of_turn_id
from factory.lora.batches import (
    IGNORED,
    EncodedRow,
    collate,
    encode,
    epoch_batches,
    epoch_rows,
    limit_wordings,
    micro_batches,
    num_labels,
    share_of,
)
from tests.made import make_examples, make_fact


def _made(sizes: dict[str, int]) -> list[EncodedRow]:
    """Return rows of random length, so many of each group."""
    source = random.Random(1)
    return [
        EncodedRow((1,) * length, (IGNORED,) * (length - 1) + (2,), group)
        for group, size in sizes.items()
        for length in (source.randint(3, 60) for _ in range(size))
    ]


def test_only_the_answer_and_its_end_carry_loss(tokenizer, encoded, rows) -> None:
    end = end_of_turn_id(tokenizer)
    assert len(encoded) == len(rows)
    for row, example in zip(encoded, rows, strict=True):
        trained = [label for label in row.labels if label != IGNORED]
        assert tokenizer.decode(trained[:-1]) == example.messages[-1].content
        assert trained[-1] == end == row.ids[-1]
        assert len(row.ids) == len(row.labels)
        assert row.group == example.facts[0]


def test_the_end_of_turn_is_trained_although_it_is_the_padding_too(tokenizer, encoded) -> None:
    end = end_of_turn_id(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == end
    batch = collate(encoded, tokenizer.pad_token_id)
    for number, row in enumerate(encoded):
        size = len(row.ids)
        assert int(batch.labels[number, size - 1]) == end
        assert batch.labels[number, size:].eq(IGNORED).all()
        assert batch.ids[number, size:].eq(end).all()
    assert int((batch.labels == end).sum()) == len(encoded)


def test_rows_are_padded_on_the_right_and_nothing_is_lost(encoded) -> None:
    batch = collate(encoded[:5], 0)
    assert (
        batch.ids.shape
        == batch.mask.shape
        == batch.labels.shape
        == (5, max(len(row.ids) for row in encoded[:5]))
    )
    for number, row in enumerate(encoded[:5]):
        assert tuple(batch.ids[number][batch.mask[number].bool()].tolist()) == row.ids
        assert int(batch.mask[number].sum()) == len(row.ids)
    assert sum(num_labels(row) for row in encoded[:5]) == int((batch.labels[:, 1:] != IGNORED).sum())
    assert torch.equal(batch.to("cpu").ids, batch.ids)


def test_a_row_that_is_too_long_is_left_out_whole(tokenizer) -> None:
    short, long = (
        make_examples(make_fact(n), {"what_of": text})[0] for n, text in ((1, "Weight?"), (2, "long " * 90))
    )
    size = len(encode(tokenizer, [short], 999)[0].ids)
    assert [row.group for row in encode(tokenizer, [long, short], size)] == ["fact1"]
    assert encode(tokenizer, [long, short], size - 1) == []


def test_a_row_without_facts_is_a_group_of_its_own(tokenizer) -> None:
    (row,) = make_examples(make_fact(1), {"abstain": "Weight?"})
    assert encode(tokenizer, [row.model_copy(update={"facts": ()})], 999)[0].group == row.id


def test_an_epoch_takes_one_wording_of_every_group_and_all_before_any_again() -> None:
    sizes = {"a": 1, "b": 3, "c": 5, "d": 2}
    rows = _made(sizes)
    seen: dict[str, list[int]] = {group: [] for group in sizes}
    for epoch in range(15):
        chosen = epoch_rows(rows, epoch, 7)
        assert Counter(rows[number].group for number in chosen) == dict.fromkeys(sizes, 1)
        for number in chosen:
            seen[rows[number].group].append(number)
    for group, size in sizes.items():
        for start in range(0, 15 - size, size):
            assert len(set(seen[group][start : start + size])) == size


def test_the_order_changes_with_epoch_and_seed_and_with_nothing_else() -> None:
    rows = _made({f"g{number}": 2 for number in range(40)})
    assert epoch_batches(rows, 1, 7, 8) == epoch_batches(rows, 1, 7, 8)
    assert epoch_batches(rows, 1, 7, 8) != epoch_batches(rows, 3, 7, 8)
    assert epoch_batches(rows, 1, 7, 8) != epoch_batches(rows, 1, 8, 8)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 1000])
def test_batches_hold_the_epoch_once_with_like_lengths_together(batch_size: int) -> None:
    rows = _made({f"g{number}": 1 for number in range(300)})
    made = epoch_batches(rows, 0, 7, batch_size)
    assert sorted(number for batch in made for number in batch) == list(range(300))
    assert max(map(len, made)) <= batch_size
    padding = sum(
        max(len(rows[number].ids) for number in batch) - len(rows[number].ids)
        for batch in made
        for number in batch
    )
    assert padding < 0.25 * sum(len(row.ids) for row in rows) or batch_size == 1000


def test_micro_batches_split_a_batch_in_order() -> None:
    assert list(micro_batches([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(micro_batches([1, 2], 16)) == [[1, 2]]
    assert list(micro_batches([], 2)) == []


def test_the_first_wordings_of_a_group_are_kept() -> None:
    rows = _made({"a": 4, "b": 1})
    assert limit_wordings(rows, 2) == [*rows[:2], rows[4]]
    assert limit_wordings(rows, 99) == rows


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("micro_batch", [1, 2, 16])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_a_batch_in_as_many_parts_each(
    size: int, micro_batch: int, num_processes: int
) -> None:
    batch = list(range(10, 10 + size))
    shares = [share_of(batch, micro_batch, rank, num_processes) for rank in range(num_processes)]
    assert len({len(share) for share in shares}) == 1
    counted = [row for share in shares for part, weight in share for row in part * int(weight)]
    assert sorted(counted) == batch
    assert all(0 < len(part) <= micro_batch for share in shares for part, _ in share)
    assert [part for part, _ in share_of(batch, micro_batch, 0, 1)] == list(micro_batches(batch, micro_batch))
