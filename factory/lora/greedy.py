"""Greedy answers of a model in memory, several prompts a step. Knows token ids; not questions.

`generate` of transformers is not used: it follows what a base's `generation_config.json` says, such as a penalty on
repeated tokens, which llama.cpp does not know of; and it computes answers that have ended until the longest one has.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch

from factory.chat.template import end_of_turn_id
from factory.errors import BaseModelError
from factory.lora.step import like_lengths

FEW = 0.75  # of a batch's answers still go on: the others leave it, which takes a copy of what is kept of each token


@dataclass(frozen=True)
class Continuation:
    """Greedy ids without the token that ends them, and the mean log-probability of them and it, in nats."""

    ids: list[int]
    sureness: float = field(compare=False)


def find_stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the template's end of turn, and those that the base names."""
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    also = [] if named is None else [named] if isinstance(named, int) else named
    return frozenset([end_of_turn_id(tokenizer), *also])


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop_ids: Collection[int],
    pad_id: int,
    device: str,
    batch_size: int,
) -> list[Continuation]:
    """Return the likeliest next tokens after each prompt, up to `max_tokens` of them, in the order given.

    Raises:
        BaseModelError: the model's numbers overflow.
    """
    answers: dict[int, Continuation] = {}
    for numbers in like_lengths(prompts, batch_size):
        spoken: list[list[tuple[int, float]]] = [[] for _ in numbers]
        ids, mask = _padded([prompts[number] for number in numbers], pad_id)
        for place, token, logprob in _speak(model, ids.to(device), mask.to(device), max_tokens, stop_ids):
            spoken[place].append((token, logprob))
        for number, said in zip(numbers, spoken, strict=True):
            answer = [token for token, _ in said if token not in stop_ids]
            answers[number] = Continuation(answer, fmean(logprob for _, logprob in said))
    return [answers[number] for number in range(len(prompts))]


def _padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts as rows of ids that end together, and where these are the prompts' own."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _speak(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, max_tokens: int, stop_ids: Collection[int]
) -> Iterator[tuple[int, int, float]]:
    """Yield a row's place, the next token of its answer and this one's log-probability, the last one's too."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    places, going, cache = list(range(len(ids))), set(range(len(ids))), None
    for step in range(max_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, logits_dtype, logits = out.past_key_values, out.logits.dtype, out.logits[:, -1].float()
        highest, likeliest = logits.max(-1)
        logprobs = (highest - logits.logsumexp(-1)).tolist()
        if not all(map(math.isfinite, logprobs)):
            raise BaseModelError(
                f"The model's logits in {str(logits_dtype).removeprefix('torch.')} are not finite: take a base that "
                "16 bits hold, or a GPU that computes in bfloat16"
            )
        for place, token, logprob in zip(places, likeliest.tolist(), logprobs, strict=True):
            if place in going:
                yield place, token, logprob
                if token in stop_ids:
                    going.remove(place)
        if not going or step == max_tokens - 1:
            return
        if len(going) <= FEW * len(places):
            rows = torch.tensor(
                [row for row, place in enumerate(places) if place in going], device=ids.device
            )
            cache.batch_select_indices(rows)
            mask, likeliest = mask[rows], likeliest[rows]
            places = [place for place in places if place in going]
        ids = likeliest[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = mask.sum(-1, keepdim=True) - 1
