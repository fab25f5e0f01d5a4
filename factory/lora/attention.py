"""Causal attention over rows that lie side by side: each row sees itself and the beginning that all share.

Short rows are gathered into one batch of matrices by indices that are made once a layout and serve every layer;
long ones go through torch's blocked kernel. Knows places of tokens and heads; not weights.

Shapes: N tokens, H heads, G key-value heads, F = H / G, d head size, P shared tokens, T the longest row without the
shared part, S = P + T; B rows and, where tokens are shared, those that hold them, in pieces of at most T.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from factory.lora.layout import Layout

SHORT = 256  # S; up to here it is faster on two cores with AVX-512 than the blocked kernel, whose backward is slow
HIDDEN = -1e9  # added to the scores of what must not be seen


@dataclass(frozen=True)
class Places:
    """Where each query, key and value of a batch of matrices stands among N · (H + 2 G) vectors, and back.

    `queries` (B G F T,), `keys` and `values` (B G S,) are vectors' numbers; `outputs` (N H,) the place of each
    token's head among the queries; `inputs` (N (H + 2 G),) that of each vector among queries, keys and values one
    after another. `bias` (B G, F T, S) hides what must not be seen, `real` (B G, F T, 1) is 0 for padding.
    """

    num_matrices: int
    prefix: int
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    outputs: torch.Tensor
    inputs: torch.Tensor
    bias: torch.Tensor
    real: torch.Tensor


def find_places(layout: Layout, num_heads: int, num_key_heads: int, dtype: torch.dtype) -> Places:
    """Return the places of a layout's heads."""
    device, prefix, longest = layout.ids.device, layout.prefix, layout.longest
    fold, vectors = num_heads // num_key_heads, num_heads + 2 * num_key_heads
    starts, lengths = _short_rows(layout)
    num_rows, width = len(starts), longest
    token_BT, real_BT = _grid(starts, lengths, width, device)
    heads_GF = torch.arange(num_heads, device=device).view(num_key_heads, fold)
    queries = token_BT[:, None, None, :] * vectors + heads_GF[None, :, :, None]
    group_G = torch.arange(num_key_heads, device=device)
    shared_P = torch.arange(prefix, device=device)
    seen_BS = torch.cat([shared_P.expand(num_rows, -1), token_BT], dim=1)
    keys = seen_BS[:, None, :] * vectors + num_heads + group_G[None, :, None]
    places_T = torch.arange(width, device=device)
    own = places_T[None, :] <= places_T[:, None]
    visible = own.expand(num_rows, -1, -1)
    if prefix:
        # A piece of the shared tokens sees those before it, as the others see all of them.
        seen = [start if start < prefix else prefix for start in starts]
        before = shared_P < torch.tensor(seen, device=device)[:, None, None]
        before = before.expand(-1, width, -1)
        visible = torch.cat([before, visible], dim=2)
    bias = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, HIDDEN)
    size = width + prefix
    bias = bias[:, None, None].expand(-1, num_key_heads, fold, -1, -1).reshape(-1, fold * width, size)
    row_N, place_N = torch.zeros_like(layout.ids), torch.zeros_like(layout.ids)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        row_N[start : start + length] = number
        place_N[start : start + length] = places_T[:length]
    outputs = ((row_N[:, None, None] * num_key_heads + group_G[:, None]) * fold + heads_GF % fold) * width
    outputs = (outputs + place_N[:, None, None]).reshape(len(row_N), num_heads)
    key_places = (row_N[:, None] * num_key_heads + group_G) * size + prefix + place_N[:, None]
    num_queries, num_keys = queries.numel(), keys.numel()
    inputs = torch.cat([outputs, num_queries + key_places, num_queries + num_keys + key_places], dim=1)
    return Places(
        num_matrices=num_rows * num_key_heads,
        prefix=prefix,
        queries=queries.reshape(-1),
        keys=keys.reshape(-1),
        values=(keys + num_key_heads).reshape(-1),
        outputs=outputs.reshape(-1),
        inputs=inputs.reshape(-1),
        bias=bias,
        real=real_BT[:, None, None]
        .expand(-1, num_key_heads, fold, -1)
        .reshape(-1, fold * width, 1)
        .to(dtype),
    )


def _rows(layout: Layout) -> tuple[list[int], list[int]]:
    """Return where each row begins among the N tokens and how long it is, the shared part as the last row."""
    lengths = [length - layout.prefix for length in layout.lengths]
    starts = [layout.prefix + sum(lengths[:number]) for number in range(len(lengths))]
    return ([*starts, 0], [*lengths, layout.prefix]) if layout.prefix else (starts, lengths)


def _short_rows(layout: Layout) -> tuple[list[int], list[int]]:
    """Return the same as `_rows`, the shared part in pieces no longer than a row: all are padded to the longest."""
    starts, lengths = _rows(layout)
    if not layout.prefix:
        return starts, lengths
    pieces = range(0, layout.prefix, layout.longest)
    sizes = [min(layout.longest, layout.prefix - start) for start in pieces]
    return [*starts[:-1], *pieces], [*lengths[:-1], *sizes]


def _grid(
    starts: Sequence[int], lengths: Sequence[int], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token of each place (B, T), the row's first one for padding, and whether a place is real."""
    places = torch.arange(width, device=device)[None]
    begins, sizes = (torch.tensor(values, device=device)[:, None] for values in (starts, lengths))
    real = places < sizes
    return torch.where(real, begins + places, begins), real


class _Short(torch.autograd.Function):
    """Attention written out over one batch of small matrices: (N, H + 2 G, d) → (N, H d)."""

    @staticmethod
    def forward(ctx: Any, heads: torch.Tensor, places: Places) -> torch.Tensor:
        size = heads.shape[-1]
        vectors = heads.view(-1, size)
        q, k, v = (
            vectors.index_select(0, index).view(places.num_matrices, -1, size)
            for index in (places.queries, places.keys, places.values)
        )
        weights = torch.baddbmm(places.bias, q, k.transpose(1, 2), alpha=size**-0.5).softmax(-1)
        out = torch.bmm(weights, v).view(-1, size).index_select(0, places.outputs)
        ctx.places = places
        ctx.save_for_backward(q, k, v, weights)
        return out.view(heads.shape[0], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        q, k, v, weights = ctx.saved_tensors
        places, size = ctx.places, q.shape[-1]
        num_heads = grad.shape[1] // size
        spread = grad.new_zeros((q.shape[0] * q.shape[1], size))
        spread[places.outputs] = grad.reshape(-1, size)
        d_out = spread.view(q.shape)
        dv = torch.bmm(weights.transpose(1, 2), d_out)
        dw = torch.bmm(d_out, v.transpose(1, 2))
        ds = torch.ops.aten._softmax_backward_data(dw, weights, -1, dw.dtype).mul_(size**-0.5)
        dq, dk = torch.bmm(ds, k), torch.bmm(ds.transpose(1, 2), q)
        parts = torch.cat([part.reshape(-1, size) for part in (dq, dk, dv)])
        d_heads = parts.index_select(0, places.inputs).view(grad.shape[0], -1, size)
        if places.prefix:
            num_keys = (d_heads.shape[1] - num_heads) // 2
            for number, part in enumerate((dk, dv)):
                first = num_heads + number * num_keys
                by_row = part.view(-1, num_keys, part.shape[1], size)[:, :, : places.prefix]
                d_heads[: places.prefix, first : first + num_keys] += by_row.sum(0).transpose(0, 1)
        return d_heads, None


def attend(heads: torch.Tensor, layout: Layout, places: Places | None, num_heads: int) -> torch.Tensor:
    """Return causal attention within each row and to what all share: (N, H + 2 G, d) → (N, H d).

    `places` is what `find_places` returned, or None for rows that are too long for it.
    """
    if places is not None:
        out: torch.Tensor = _Short.apply(heads, places)
        return out
    num_keys = (heads.shape[1] - num_heads) // 2
    q, k, v = heads.split([num_heads, num_keys, num_keys], dim=1)
    outputs = []
    for start, length in zip(*_rows(layout), strict=True):
        row = slice(start, start + length)
        seen = slice(0, 0) if start < layout.prefix else slice(0, layout.prefix)
        query, *rest = (x[row].transpose(0, 1)[None] for x in (q, k, v))
        keys, values = (
            torch.cat([x[seen].transpose(0, 1)[None], own], dim=2)
            for x, own in zip((k, v), rest, strict=True)
        )
        whole = keys.shape[2] == length
        mask = None if whole else _visible(length, keys.shape[2], heads.device)
        out = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=whole, enable_gqa=True
        )
        outputs.append(out[0].transpose(0, 1).reshape(length, -1))
    return torch.cat([outputs[-1], *outputs[:-1]] if layout.prefix else outputs)


def _visible(length: int, places: int, device: torch.device) -> torch.Tensor:
    return torch.ones((length, places), dtype=torch.bool, device=device).tril(places - length)
