"""Rows side by side: nothing is padded, nothing is lost, and a shared beginning stands there once."""

import pytest
import torch

from factory.lora.batches import IGNORED, EncodedRow
from factory.lora.layout import lay_out


def _row(ids, first_label) -> EncodedRow:
    return EncodedRow(tuple(ids), tuple([IGNORED] * first_label + list(ids[first_label:])), "g")


ROWS = [_row([1, 2, 3, 4, 5], 4), _row([1, 2, 9, 8], 2), _row([1, 2, 3, 7, 7, 7, 6], 5)]


def test_the_common_beginning_stands_there_once_and_ends_before_a_label_is_predicted():
    layout = lay_out(ROWS)
    assert layout.prefix == 1  # the second row's label at place 2 is predicted from place 1
    assert layout.ids.tolist() == [1, 2, 3, 4, 5, 2, 9, 8, 2, 3, 7, 7, 7, 6]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert layout.targets.tolist() == [5, 9, 8, 7, 6]
    assert layout.ids[layout.before_targets].tolist() == [4, 2, 9, 7, 7]


@pytest.mark.parametrize("rows", [ROWS[:1], [_row([3, 1], 1), _row([4, 1], 1)]])
def test_one_row_or_rows_with_nothing_in_common_share_nothing(rows):
    assert lay_out(rows).prefix == 0
    assert len(lay_out(rows).ids) == sum(len(row.ids) for row in rows)


def test_apart_is_the_inverse_of_join():
    layout = lay_out(ROWS)
    values = torch.randn(len(layout.ids), 3)
    parts = layout.apart(values)
    assert [len(part) for part in parts] == [5, 4, 7]
    assert torch.equal(layout.join(parts), values)
