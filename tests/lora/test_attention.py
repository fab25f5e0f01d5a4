"""Attention over rows side by side is that of each row alone, forward and backward, short and long."""

import pytest
import torch
from torch.nn import functional

from factory.lora.attention import attend, find_places
from factory.lora.batches import IGNORED, EncodedRow
from factory.lora.layout import lay_out

HEADS, KEYS, SIZE = 6, 2, 8


def _row(ids, first_label) -> EncodedRow:
    return EncodedRow(tuple(ids), tuple([IGNORED] * first_label + list(ids[first_label:])), "g")


def _alone(heads, layout):
    """Return what each row's own attention gives, with a copy of what is shared in every row."""
    outputs = []
    for row in layout.apart(heads):
        q, k, v = (x.transpose(0, 1)[None] for x in row.split([HEADS, KEYS, KEYS], dim=1))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1).reshape(len(row), -1))
    return layout.join(outputs)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("sizes", [(4, 7, 12), (5, 5, 5), (1, 30, 2)])
def test_attention_is_that_of_each_row_alone(share, short, sizes):
    torch.manual_seed(0)
    rows = [_row([1, 2, 3, *range(10, 10 + size)], 2 + size) for size in sizes]
    rows[0] = _row([1, 2, 3, *range(50, 50 + sizes[0])], 2 + sizes[0])
    layout = lay_out(rows, share=share)
    assert layout.prefix == (min(3, 1 + min(sizes)) if share else 0)
    heads = torch.randn(len(layout.ids), HEADS + 2 * KEYS, SIZE, requires_grad=True)
    copy = heads.detach().clone().requires_grad_()
    places = find_places(layout, HEADS, KEYS, torch.float32) if short else None
    out, expected = attend(heads, layout, places, HEADS), _alone(copy, layout)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert (out - expected).abs().max() < 1e-5
    assert (heads.grad - copy.grad).norm() <= 1e-5 * copy.grad.norm()


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("prefix", [5, 6, 12, 13, 40])
def test_a_shared_beginning_longer_than_the_rows_is_seen_by_all_and_costs_no_row_its_length(short, prefix):
    torch.manual_seed(0)
    rows = [_row([*range(100, 100 + prefix), *range(10, 10 + size)], prefix + 1) for size in (3, 6, 4)]
    rows[1] = _row([*rows[0].ids[:prefix], *range(50, 56)], prefix + 1)
    layout = lay_out(rows)
    assert (layout.prefix, layout.longest) == (prefix, 6)
    heads = torch.randn(len(layout.ids), HEADS + 2 * KEYS, SIZE, requires_grad=True)
    copy = heads.detach().clone().requires_grad_()
    places = find_places(layout, HEADS, KEYS, torch.float32) if short else None
    if places:
        assert places.num_matrices == KEYS * (3 + -(-prefix // 6))
        assert places.bias.shape[1:] == (HEADS // KEYS * 6, prefix + 6)
    out, expected = attend(heads, layout, places, HEADS), _alone(copy, layout)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    assert (out - expected).abs().max() < 1e-5
    assert (heads.grad - copy.grad).norm() <= 1e-5 * copy.grad.norm()


def test_one_row_is_plain_attention():
    layout = lay_out([_row(range(9), 4)])
    heads = torch.randn(9, HEADS + 2 * KEYS, SIZE)
    short = attend(heads, layout, find_places(layout, HEADS, KEYS, torch.float32), HEADS)
    assert layout.prefix == 0
    assert (short - _alone(heads, layout)).abs().max() < 1e-5
    assert (attend(heads, layout, None, HEADS) - short).abs().max() < 1e-5
