"""General questions that a base asks itself, and what it answers: rehearsed in training, they keep it as it was.

A chat model that is given the head of a user's turn goes on as a user would (Magpie, arXiv 2406.08464), and its own
answers are what it must not forget (self-synthesized rehearsal, arXiv 2403.01244). Knows a base, not what is trained.
"""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from factory import store
from factory.chat.template import PROBE, conversation, encode_prompt, end_of_turn_id, render
from factory.lora import attach
from factory.lora.step import greedy
from factory.progress import Progress
from factory.text.segment import sentences

VERSION = 1
# What a question begins with; without a beginning, a small model mostly asks for programs and stories.
OPENERS = (
    "What is", "What", "Who", "Where", "When", "Which", "How", "How many", "Why", "Name", "In", "What does", "Is",
    "Does", "Can", "Tell me", "Explain", "Give", "The", "Write", "List", "Describe", "On", "I",
)  # fmt: skip
ROUNDS, BATCH = 4, 256
QUESTION_TOKENS, ANSWER_TOKENS = 20, 32
MIN_CHARACTERS = 8


def rehearse(base: Path, questions: Sequence[str], system: str) -> list[tuple[str, str]]:
    """Return questions with the base's greedy answers, cut to whole sentences: the given ones and its own.

    They are made once for a base and a system text, and kept beside its weights.
    """
    key = store.hash_json([VERSION, list(questions), system])[:16]
    kept = base / f"rehearsal-{key}.json"
    if kept.is_file():
        return [(question, answer) for question, answer in store.read_json(kept)]
    tokenizer = attach.load_tokenizer(base)
    device = attach.pick_device()
    model = attach.load_model(base, attach.pick_dtype("auto", device), device).eval()
    with Progress("rehearse") as bar:
        asked = list(dict.fromkeys([*questions, *_ask_itself(model, tokenizer, device, bar)]))
        stop = end_of_turn_id(tokenizer)
        prompts = [encode_prompt(tokenizer, conversation(question, system=system)) for question in asked]
        replies = greedy(
            model,
            prompts,
            max_tokens=ANSWER_TOKENS,
            stop_id=stop,
            pad_id=stop,
            device=device,
            batch_size=BATCH,
        )
    pairs = [
        (question, answer)
        for question, ids in zip(asked, replies, strict=True)
        if (answer := _whole(str(tokenizer.decode(ids, skip_special_tokens=True)).strip(), len(ids)))
    ]
    store.write_json(kept, pairs)
    return pairs


@torch.inference_mode()
def _ask_itself(model: Any, tokenizer: Any, device: str, bar: Progress) -> list[str]:
    """Return what the base writes as a user, where it comes to an end."""
    head = render(tokenizer, conversation(PROBE)).split(PROBE)[0]
    starts = [tokenizer(head + opener, add_special_tokens=False)["input_ids"] for opener in OPENERS]
    stop, width = end_of_turn_id(tokenizer), max(map(len, starts))
    starts, openers = (list(islice(cycle(each), BATCH)) for each in (starts, OPENERS))
    ids = torch.tensor([[stop] * (width - len(start)) + start for start in starts], device=device)
    mask = torch.tensor([[0] * (width - len(start)) + [1] * len(start) for start in starts], device=device)
    found: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(VERSION)
        for number in range(ROUNDS):
            made = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=QUESTION_TOKENS, do_sample=True,
                temperature=1.0, top_p=None, top_k=None, eos_token_id=stop, pad_token_id=stop,
            )  # fmt: skip
            found += [
                opener + str(tokenizer.decode(row[: row.index(stop)])).rstrip()
                for row, opener in zip(made[:, width:].tolist(), openers, strict=True)
                if stop in row
            ]
            bar.update(number + 1, ROUNDS)
    return [text for text in found if len(text) >= MIN_CHARACTERS and "\n" not in text]


def _whole(answer: str, num_tokens: int) -> str:
    """Return an answer without its last sentence where that may have been cut off; empty if there is no other."""
    if num_tokens < ANSWER_TOKENS:
        return answer
    whole = sentences(answer)[:-1]
    return answer[: whole[-1].end] if whole else ""
