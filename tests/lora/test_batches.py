"""Rows as ids: what carries loss, which wording comes when, and how rows are padded and ordered."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from factory.chat.context import with_context
from factory.chat.template import conversation, end_of_turn_id
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
    num_tokens,
    order_digest,
    parts_of,
    share_of,
)
from factory.lora.layout import lay_out
from factory.rows import OPEN_BOOK
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


def test_a_group_that_waits_takes_part_in_one_of_so_many_epochs_with_another_wording_each_time() -> None:
    rows = [replace(row, every=3) for row in _made({f"g{number}": 4 for number in range(60)})]
    epochs = [epoch_rows(rows, epoch, 7) for epoch in range(12)]
    assert sorted(number for chosen in epochs for number in chosen) == list(range(240))
    for start in range(0, 12, 3):
        groups = [rows[number].group for chosen in epochs[start : start + 3] for number in chosen]
        assert Counter(groups) == dict.fromkeys({row.group for row in rows}, 1)
    assert min(map(len, epochs)) > 10, "not all at once"


def test_what_is_asked_below_one_context_has_its_turn_together() -> None:
    rows = [replace(row, every=4) for row in _below({f"c{number}": 5 for number in range(20)}, 0)]
    for epoch in range(8):
        contexts = Counter(rows[number].context for number in epoch_rows(rows, epoch, 7))
        assert set(contexts.values()) == {5}


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


DIGEST = """
import json, sys
from factory.lora.batches import EncodedRow, epoch_batches, order_digest
rows = [EncodedRow(**row) for row in json.load(sys.stdin)]
print(order_digest(rows, [batch for epoch in range(3) for batch in epoch_batches(rows, epoch, 5, 4)]))
"""


def test_another_process_with_other_hashes_trains_in_the_same_order() -> None:
    rows = _made({f"group {number}": 1 + number % 3 for number in range(20)})
    rows = [replace(row, context=f"c{n % 7}" if n % 3 else "", every=1 + n % 2) for n, row in enumerate(rows)]
    own = order_digest(rows, [batch for epoch in range(3) for batch in epoch_batches(rows, epoch, 5, 4)])
    other_seed = str(1 + int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")))
    done = subprocess.run(
        [sys.executable, "-c", DIGEST],
        input=json.dumps([asdict(row) for row in rows]),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": other_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.strip() == own


def test_the_digest_tells_what_rows_hold_and_when_they_come() -> None:
    rows = _made({"a": 2, "b": 1})
    longer = [replace(rows[0], ids=(*rows[0].ids, 1), labels=(*rows[0].labels, 1)), *rows[1:]]
    digests = [
        order_digest(rows, [[0, 1], [2]]),
        order_digest(rows, [[1, 0], [2]]),
        order_digest(rows, [[0, 1, 2]]),
        order_digest(longer, [[0, 1], [2]]),
        order_digest([replace(row, labels=row.ids) for row in rows], [[0, 1], [2]]),
    ]
    assert len(set(digests)) == 5
    assert order_digest(list(rows), [[0, 1], [2]]) == digests[0]


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
    rows, batch = _made({"a": 30}), list(range(10, 10 + size))
    shares = [
        share_of(rows, batch, micro_batch, rank, num_processes, shared=True) for rank in range(num_processes)
    ]
    assert len({len(share) for share in shares}) == 1
    counted = [row for share in shares for part, weight in share for row in part * int(weight)]
    assert sorted(counted) == batch
    assert all(0 < len(part) <= micro_batch for share in shares for part, _ in share)
    whole = [part for part, _ in share_of(rows, batch, micro_batch, 0, 1, shared=True)]
    assert whole == list(micro_batches(batch, micro_batch))


SYSTEM, PASSAGE, QUESTION = 7, 100, 20


def _below(sizes: dict[str, int], num_alone: int) -> list[EncodedRow]:
    """Return rows of so many questions below each passage, and some without any, all behind a system text."""
    rows = [
        EncodedRow(
            (
                *range(SYSTEM),
                *range(100 * (number + 1), 100 * (number + 1) + PASSAGE),
                *_question(number, place),
            ),
            (IGNORED,) * (SYSTEM + PASSAGE + QUESTION - 2) + (5, 6),
            f"{context}{place}",
            context=context,
        )
        for number, (context, size) in enumerate(sizes.items())
        for place in range(size)
    ]
    return rows + [
        EncodedRow(
            (*range(SYSTEM), *_question(90, place)), (IGNORED,) * (SYSTEM + QUESTION - 2) + (5, 6), f"{place}"
        )
        for place in range(num_alone)
    ]


def _question(number: int, place: int) -> tuple[int, ...]:
    return (10_000 + 100 * number + place, *range(QUESTION - 3), 5, 6)


def test_a_passage_is_computed_once_for_all_that_is_asked_about_it() -> None:
    rows = _below({"a": 6}, 2)
    (batch,) = epoch_batches(rows, 0, 7, 8)
    parts = parts_of(rows, batch, 8, shared=True)
    assert sorted(len(part) for part in parts) == [2, 6]
    computed = sum(len(lay_out([rows[number] for number in part]).ids) for part in parts)
    assert computed == (SYSTEM + PASSAGE + 6 * QUESTION) + (SYSTEM + 2 * QUESTION)


def test_the_tokens_of_a_context_count_once() -> None:
    rows = _below({"a": 6, "b": 1}, 2)
    own = SYSTEM + PASSAGE
    assert num_tokens(rows, [0, 1, 2, 6, 7]) == (own + 3 * QUESTION) + (own + QUESTION) + (SYSTEM + QUESTION)
    assert num_tokens(rows, [7, 8]) == 2 * (SYSTEM + QUESTION)
    assert num_tokens(rows, []) == 0


def test_an_engine_that_shares_nothing_gets_parts_as_large_as_they_may_be() -> None:
    rows = _below({"a": 3, "b": 2}, 2)
    assert parts_of(rows, range(7), 4, shared=False) == [[0, 1, 2, 3], [4, 5, 6]]
    assert share_of(rows, list(range(7)), 4, 0, 1, shared=False) == [([0, 1, 2, 3], 1.0), ([4, 5, 6], 1.0)]
    assert len(parts_of(rows, range(7), 4, shared=True)) == 3


@pytest.mark.parametrize("num_alone", [0, 3, 40, 400])
def test_rows_with_one_context_stay_together_and_the_rest_fills_their_batches_up(num_alone: int) -> None:
    sizes = {f"c{number}": 1 + number % 11 for number in range(30)}
    rows = _below(sizes, num_alone)
    batches = epoch_batches(rows, 0, 7, 8)
    assert sorted(number for batch in batches for number in batch) == list(range(len(rows)))
    assert max(map(len, batches)) == 8
    parts = Counter(
        rows[part[0]].context
        for batch in batches
        for part in parts_of(rows, batch, 8, shared=True)
        if rows[part[0]].context
    )
    assert parts == {context: -(-size // 8) for context, size in sizes.items()}
    if num_alone >= 40:
        filled = [
            batch for batch in batches if {bool(rows[number].context) for number in batch} == {True, False}
        ]
        assert len(filled) > 10
    if num_alone == 400:
        assert sum(len(batch) < 8 for batch in batches) <= 1
    assert batches == epoch_batches(rows, 0, 7, 8) != epoch_batches(rows, 1, 7, 8)


def test_without_contexts_the_shuffled_rows_of_a_window_are_batched_by_length() -> None:
    rows = _made({f"g{number}": 1 for number in range(100)})
    batches = epoch_batches(rows, 3, 7, 8)
    chosen = epoch_rows(rows, 3, 7)
    by_length = [
        sorted(chosen[:100], key=lambda number: len(rows[number].ids))[start : start + 8]
        for start in range(0, 100, 8)
    ]
    assert sorted(batches) == sorted(by_length)


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_contexts_in_as_many_parts_each(micro_batch: int, num_processes: int) -> None:
    rows = _below({"a": 3, "b": 2}, 2)
    batch = list(range(7))
    shares = [
        share_of(rows, batch, micro_batch, rank, num_processes, shared=True) for rank in range(num_processes)
    ]
    assert len({len(share) for share in shares}) == 1
    counted = [number for share in shares for part, weight in share for number in part * int(weight)]
    assert sorted(counted) == batch
    assert all(len({rows[number].context for number in part}) == 1 for share in shares for part, _ in share)


def test_an_open_book_row_names_its_context_and_is_remembered_from_no_document(tokenizer) -> None:
    (row,) = make_examples(make_fact(1), {"tell": "Weight?"})
    turn = with_context(["Scales\nTD-1"], "Weight?")
    below = row.model_copy(update={"form": OPEN_BOOK, "messages": conversation(turn, "1 kg")})
    plain, open_book = encode(tokenizer, [row, below], 999)
    assert (plain.context, plain.document) == ("", "a.md")
    assert (open_book.context, open_book.document) == ("Scales\nTD-1", "")
    assert plain.group != open_book.group
