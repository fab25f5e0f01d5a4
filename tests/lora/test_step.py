"""Low precision where it is asked for, and batches of like length that stay within bounds."""

import pytest
import torch

from factory.lora import step
from factory.lora.step import autocast, like_lengths


def test_float32_is_not_autocast() -> None:
    one = torch.randn(3, 3)
    with autocast("cpu", torch.float32):
        assert (one @ one).dtype == torch.float32
    with autocast("cpu", torch.bfloat16):
        assert (one @ one).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("batch_size", "tokens", "expected"),
    [
        (2, 99, [[2, 0], [3, 1]]),
        (4, 8, [[2, 0], [3], [1]]),  # two of three tokens fit, not two of seven
        (4, 1, [[2], [0], [3], [1]]),
    ],
)
def test_batches_hold_sequences_of_like_length(monkeypatch, batch_size: int, tokens: int, expected) -> None:
    monkeypatch.setattr(step, "PROMPT_TOKENS", tokens)
    prompts = [[5] * length for length in (3, 9, 2, 7)]
    assert list(like_lengths(prompts, batch_size)) == expected
