"""The loss of a batch on its answer tokens, and greedy answers of the model being trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

PROMPT_TOKENS = 8192  # read at once; passages of retrieval would otherwise take gigabytes
LOSS_CHUNK = 256  # tokens; 50 MB of logits at a vocabulary of 49,152


@contextmanager
def autocast(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Compute in a low-precision dtype inside the block; float32 changes nothing."""
    with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        yield


class _AnswerLoss(torch.autograd.Function):
    """Output layer and cross-entropy in one, a chunk of tokens at a time; the gradient is made on the way."""

    @staticmethod
    def forward(ctx: Any, last_MD: torch.Tensor, head_VD: torch.Tensor, targets_M: torch.Tensor) -> Any:
        total = last_MD.new_zeros((), dtype=torch.float32)
        grad_MD = torch.empty_like(last_MD)
        for start in range(0, len(targets_M), LOSS_CHUNK):
            part = slice(start, start + LOSS_CHUNK)
            targets = targets_M[part, None]
            logits_CV = (last_MD[part] @ head_VD.t()).float()
            sizes_C1 = logits_CV.logsumexp(-1, keepdim=True)
            total += (sizes_C1 - logits_CV.gather(1, targets)).sum()
            weights_CV = logits_CV.sub_(sizes_C1).exp_()
            weights_CV.scatter_add_(1, targets, weights_CV.new_full(targets.shape, -1.0))
            grad_MD[part] = weights_CV.to(head_VD.dtype) @ head_VD
        ctx.save_for_backward(grad_MD)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return ctx.saved_tensors[0] * grad, None, None


def answer_loss(last_MD: torch.Tensor, head_VD: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy, in nats, of targets under a frozen output layer in the same dtype.

    No more than `LOSS_CHUNK` rows of logits are ever in memory.
    """
    total: torch.Tensor = _AnswerLoss.apply(last_MD, head_VD, targets_M)
    return total


def _like_lengths(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the prompts' numbers in batches of like length, none of more than `PROMPT_TOKENS` unless it is one."""
    batch: list[int] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        full = len(batch) == batch_size or (len(batch) + 1) * len(prompts[number]) > PROMPT_TOKENS
        if batch and full:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


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
) -> list[list[int]]:
    """Return the greedy continuation of each prompt, as ids without the stop token, in the order given."""
    answers: list[list[int]] = [[] for _ in prompts]
    for numbers in _like_lengths(prompts, batch_size):
        width = max(len(prompts[number]) for number in numbers)
        ids = torch.full((len(numbers), width), pad_id)
        mask = torch.zeros((len(numbers), width), dtype=torch.long)
        for row, number in enumerate(numbers):
            size = len(prompts[number])
            ids[row, width - size :] = torch.tensor(list(prompts[number]))
            mask[row, width - size :] = 1
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
        )
        for row, number in enumerate(numbers):
            made = out[row, width:].tolist()
            answers[number] = made[: made.index(stop_id)] if stop_id in made else made
    return answers
