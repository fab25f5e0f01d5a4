"""Rows of token ids side by side without padding, behind one copy of the tokens that all of them begin with.

Knows places: which token belongs to which row, what may attend to what, which tokens carry loss. Not weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from factory.lora.batches import IGNORED, EncodedRow


@dataclass(frozen=True)
class Layout:
    """N tokens: `prefix` shared ones, then each row's own.

    `ids` and `positions` have shape (N,); `lengths` and `longest` count a row's tokens with and without the shared
    ones. `before_targets` (M,) are the tokens whose next one carries loss, `targets` (M,) that next one's id.
    """

    prefix: int
    longest: int
    ids: torch.Tensor
    positions: torch.Tensor
    before_targets: torch.Tensor
    targets: torch.Tensor
    lengths: tuple[int, ...]

    def join(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return per-row values of shape (length, …) in this layout's order; the first row gives the prefix's."""
        return torch.cat([rows[0][: self.prefix], *(row[self.prefix :] for row in rows)])

    def apart(self, values_ND: torch.Tensor) -> list[torch.Tensor]:
        """Return one tensor of shape (length, …) a row, the inverse of `join`."""
        shared, own = values_ND[: self.prefix], values_ND[self.prefix :]
        parts = own.split([length - self.prefix for length in self.lengths])
        return [torch.cat([shared, part]) for part in parts]


def lay_out(rows: Sequence[EncodedRow], device: str = "cpu", *, share: bool = True) -> Layout:
    """Return the layout of some rows; `share` keeps one copy of their common beginning.

    A row's first token with loss is always predicted from a token of its own.
    """
    prefix = _common(rows) if share and len(rows) > 1 else 0
    lengths = tuple(len(row.ids) for row in rows)
    longest = max(lengths) - prefix
    ids, positions = list(rows[0].ids[:prefix]), list(range(prefix))
    before: list[int] = []
    targets: list[int] = []
    for row in rows:
        start = len(ids) - prefix
        ids += row.ids[prefix:]
        positions += range(prefix, len(row.ids))
        for place in range(1, len(row.ids)):
            if row.labels[place] != IGNORED:
                before.append(start + place - 1)
                targets.append(row.labels[place])
    return Layout(
        prefix=prefix,
        longest=longest,
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        before_targets=torch.tensor(before, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        lengths=lengths,
    )


def _common(rows: Sequence[EncodedRow]) -> int:
    """Return how many tokens all rows begin with, ending before the first one that predicts a label."""
    limit = min(
        next((place - 1 for place, label in enumerate(row.labels) if label != IGNORED), 0) for row in rows
    )
    first = rows[0].ids
    for place in range(max(0, limit)):
        if any(row.ids[place] != first[place] for row in rows):
            return place
    return max(0, limit)
