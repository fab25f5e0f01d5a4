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

VERSION = 2
BATCH, ANSWER_TOKENS = 128, 32


def rehearse(base: Path, questions: Sequence[str], system: str) -> list[tuple[str, str]]:
    """Return the questions that a base has something to say on, with its greedy answers cut to whole sentences.

    Each is asked once for a base and a system text; what it said is kept beside its weights.
    """
    kept = base / f"rehearsal-{store.hash_json([VERSION, system])[:16]}.json"
    said: dict[str, str] = store.read_json(kept) if kept.is_file() else {}
    if new := [question for question in questions if question not in said]:
        said |= dict(zip(new, _answer(base, new, system), strict=True))
        store.write_json(kept, said)
        hardware.release_memory()
    return [(question, said[question]) for question in questions if said[question]]


def _answer(base: Path, questions: Sequence[str], system: str) -> list[str]:
    """Return what a base says to each question, empty where that is no whole sentence."""
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
    return [
        whole(
            str(tokenizer.decode(reply.ids, skip_special_tokens=True)),
            is_cut=len(reply.ids) == ANSWER_TOKENS,
        )
        for reply in replies
    ]


def whole(answer: str, *, is_cut: bool) -> str:
    """Return an answer without the sentence that was cut off, if one was; empty if there is no other."""
    found = sentences(answer)
    if is_cut:
        found = found[:-1]
    return answer[found[0].start : found[-1].end] if found else ""
