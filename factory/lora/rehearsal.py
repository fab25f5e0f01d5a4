"""What a base answers to general questions: rehearsed in training, its own words keep it as it was.

They are its to lose and cost nothing to learn, where true short answers would be new to it (self-synthesized rehearsal,
Huang et al., ACL 2024). Knows a base; not what is trained.
"""

from collections.abc import Sequence
from pathlib import Path

from factory import hardware, store
from factory.chat.template import conversation, encode_prompt, end_of_turn_id
from factory.lora import attach
from factory.lora.step import greedy
from factory.text.segment import sentences

VERSION = 1
BATCH, ANSWER_TOKENS = 128, 32


def rehearse(base: Path, questions: Sequence[str], system: str) -> list[tuple[str, str]]:
    """Return the questions that a base has something to say on, with its greedy answers cut to whole sentences.

    They are made once for a base and a system text, and kept beside its weights.
    """
    key = store.hash_json([VERSION, list(questions), system])[:16]
    kept = base / f"rehearsal-{key}.json"
    if not kept.is_file():
        store.write_json(kept, _answer(base, questions, system))
        hardware.release_memory()
    return [(question, answer) for question, answer in store.read_json(kept)]


def _answer(base: Path, questions: Sequence[str], system: str) -> list[tuple[str, str]]:
    tokenizer, device = attach.load_tokenizer(base), attach.pick_device()
    model = attach.load_model(base, attach.pick_dtype("auto", device), device).eval()
    prompts = [encode_prompt(tokenizer, conversation(question, system=system)) for question in questions]
    stop = end_of_turn_id(tokenizer)
    replies = greedy(
        model,
        prompts,
        max_tokens=ANSWER_TOKENS,
        stop_id=stop,
        pad_id=stop,
        device=device,
        batch_size=BATCH,
    )
    answers = [
        whole(
            str(tokenizer.decode(reply.ids, skip_special_tokens=True)),
            is_cut=len(reply.ids) == ANSWER_TOKENS,
        )
        for reply in replies
    ]
    return [(question, answer) for question, answer in zip(questions, answers, strict=True) if answer]


def whole(answer: str, *, is_cut: bool) -> str:
    """Return an answer without the sentence that was cut off, if one was; empty if there is no other."""
    found = sentences(answer)
    if is_cut:
        found = found[:-1]
    return answer[found[0].start : found[-1].end] if found else ""
