"""What computing a step takes: a low precision, and batches of sequences of like length."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

PROMPT_TOKENS = 8192  # read at once; passages of retrieval would otherwise take gigabytes


@contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Compute in a low-precision dtype inside the block; float32 changes nothing."""
    with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        yield


def like_lengths(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield numbers of sequences in batches of like length, none of more than `PROMPT_TOKENS` unless it is one."""
    batch: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        full = len(batch) == batch_size or (len(batch) + 1) * len(prompts[number]) > PROMPT_TOKENS
        if batch and full:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
