"""Operations that training needs, against torch's own count, and what the machine can do."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from factory.lora.batches import num_labels
from factory.lora.engine import PlainEngine
from factory.lora.flops import Cost, cost_of, peak_flops, shared_tokens


@pytest.mark.parametrize("first_layer", [0, 1])
def test_the_count_is_torchs_own(new_model, encoded, first_layer: int) -> None:
    model = new_model(first_layer)
    model.config._attn_implementation = "eager"  # the counter knows plain products best
    engine, row = PlainEngine(model, first_layer, torch.float32, "cpu", 2), encoded[0]
    below = engine.lower([row])
    with FlopCounterMode(display=False) as counter:
        engine.token_losses([row], below).sum().backward()
    cost = cost_of(model, first_layer)
    full = cost.pair * len(row.ids) ** 2  # eager attention computes what the mask hides as well
    whole = cost.of([row]) - cost.pair * len(row.ids) * (len(row.ids) + 1) / 2 + full
    # Nothing below the lowest trained layer wants a gradient: its queries, keys and values need none of their input.
    spared = 2 * len(row.ids) * 64 * (64 + 32 + 32 + 3 * 4)
    assert counter.get_total_flops() == whole - spared


def test_shared_tokens_count_once(encoded) -> None:
    rows = encoded[:3]
    cost = Cost(token=1.0, label=0.0, pair=0.0)
    assert cost.of(rows, shared=4) == cost.of(rows) - 2 * 4
    assert Cost(0.0, 0.0, 1.0).of(rows, shared=4) == Cost(0.0, 0.0, 1.0).of(rows) - 2 * 10
    assert Cost(0.0, 1.0, 0.0).of(rows) == sum(map(num_labels, rows))


def test_a_context_counts_once_and_a_step_is_the_sum_of_its_contexts(encoded) -> None:
    plain, first = encoded[:2], encoded[2].ids[:9]
    below = [replace(row, ids=(*first, *range(9), *row.ids[9:]), context="c") for row in encoded[2:5]]
    below = [replace(row, labels=(-100,) * 9 + row.labels) for row in below]
    cost = Cost(token=1.0, label=0.0, pair=0.0)
    longer = shared_tokens(below)
    assert longer >= 18
    mixed = [plain[0], *below, plain[1]]
    assert cost.of_batch(mixed, 4) == cost.of(plain, 4) + cost.of(below, longer)
    assert cost.of_batch(plain, 4) == cost.of(plain, 4)


def test_what_all_rows_begin_with_is_found(encoded) -> None:
    shared = shared_tokens(encoded)
    assert shared > 0
    assert len({row.ids[:shared] for row in encoded}) == 1
    assert len({row.ids[: shared + 1] for row in encoded}) > 1
    row = encoded[0]
    assert shared_tokens([row, row]) == len(row.ids) - num_labels(row), "an answer is never shared"
    assert shared_tokens([row, replace(row, ids=(7, *row.ids[1:]))]) == 0


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    peak = peak_flops("cpu", torch.float32)
    assert torch.equal(torch.rand(2), expected)
    assert peak > 1e9
    assert peak_flops("cpu", torch.float32) == peak
