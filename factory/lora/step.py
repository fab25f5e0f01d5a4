"""Computing in a low precision, and greedy answers of the model being trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

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


@dataclass(frozen=True)
class Continuation:
    """Greedy ids without the stop token, and the mean log-probability of them and it, in nats."""

    ids: list[int]
    sureness: float = field(compare=False)


class _Sureness(LogitsProcessor):
    """Keeps the log-probability of each step's likeliest token as generation passes by; changes nothing."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores as they are."""
        wide = scores.float()
        self.steps.append(wide.amax(-1) - wide.logsumexp(-1))
        return scores

    def mean(self, row: int, count: int) -> float:
        """Return the mean over a row's first tokens."""
        return float(torch.stack([step[row] for step in self.steps[:count]]).mean())


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop_id: int,
    pad_id: int,
    device: str,
    batch_size: int,
) -> list[Continuation]:
    """Return the greedy continuation of each prompt, in the order given."""
    answers: dict[int, Continuation] = {}
    for numbers in like_lengths(prompts, batch_size):
        width = max(len(prompts[number]) for number in numbers)
        ids = torch.full((len(numbers), width), pad_id)
        mask = torch.zeros((len(numbers), width), dtype=torch.long)
        for row, number in enumerate(numbers):
            size = len(prompts[number])
            ids[row, width - size :] = torch.tensor(list(prompts[number]))
            mask[row, width - size :] = 1
        sureness = _Sureness()
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=stop_id,
            pad_token_id=pad_id,
            logits_processor=LogitsProcessorList([sureness]),
        )
        for row, number in enumerate(numbers):
            made = out[row, width:].tolist()
            ids = made[: made.index(stop_id)] if stop_id in made else made
            answers[number] = Continuation(ids, sureness.mean(row, min(len(ids) + 1, len(made))))
    return [answers[number] for number in range(len(prompts))]
