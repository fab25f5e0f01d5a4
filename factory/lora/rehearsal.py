"""What a base answers to general questions: rehearsed in training, its own words keep it as it was.

They are its to lose and cost nothing to learn, where true short answers would be new to it (self-synthesized rehearsal,
Huang et al., ACL 2024). Knows a base; not what is trained.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from factory import hardware, store
from factory.chat.template import conversation, encode_prompt
from factory.lora import attach
from factory.lora.greedy import find_stop_ids, greedy
from factory.text.segment import sentences

VERSION = 3
BATCH, ANSWER_TOKENS = 128, 32


def rehearse(base: Path, questions: Sequence[str], system: str) -> list[tuple[str, str]]:
    """Return the questions that a base has something to say on, with its greedy answers cut to whole sentences.

    They are asked once for a base and a system text, and kept beside its weights by blocks of `BATCH`: what is answered
    beside a question decides how its numbers are rounded, and must not depend on what was asked before.
    """
    blocks = [list(questions[start : start + BATCH]) for start in range(0, len(questions), BATCH)]
    device = attach.pick_device()
    quantization = attach.quantization_to_answer(base, device)
    keys = (store.hash_json([VERSION, block, system, quantization]) for block in blocks)
    files = [base / f"rehearsal-{key[:16]}.json" for key in keys]
    new = [place for place, file in enumerate(files) if not file.is_file()]
    if new:
        said = _answer(base, [blocks[place] for place in new], system, device, quantization)
        for place, answers in zip(new, said, strict=True):
            store.write_json(files[place], answers)
        hardware.release_memory()
    answered = (
        zip(block, store.read_json(file), strict=True) for block, file in zip(blocks, files, strict=True)
    )
    return [(question, answer) for pairs in answered for question, answer in pairs if answer]


def _answer(
    base: Path, blocks: Sequence[Sequence[str]], system: str, device: str, quantization: str
) -> Iterator[list[str]]:
    """Yield what a base says to the questions of each block, empty where that is no whole sentence."""
    tokenizer = attach.load_tokenizer(base)
    model = attach.load_model(base, attach.pick_dtype("auto", device), device, quantization).eval()
    stop = find_stop_ids(model, tokenizer)
    for block in blocks:
        replies = greedy(
            model,
            [encode_prompt(tokenizer, conversation(question, system=system)) for question in block],
            max_tokens=ANSWER_TOKENS,
            stop_ids=stop,
            pad_id=min(stop),
            device=device,
            batch_size=BATCH,
        )
        yield [
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
