"""Prepares what both sides of the training benchmark train on: rows as token ids, and one fresh adapter.

    python bench/rows.py FOLDER NUM_ROWS

Rows are made of the words of the sample documents, the same ones on every machine, and lie in files in the order in
which both sides train on them. Prints the folders of the base and the adapter as one line of JSON.
"""

import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from measure import say
from transformers import PreTrainedTokenizerBase

from factory.chat.template import conversation, encode_example
from factory.lora import adapter, attach
from factory.lora.batches import IGNORED, EncodedRow, epoch_batches
from factory.weights.base import open_base

ROOT = Path(__file__).parent.parent
BASE = "smollm2-135m-instruct"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # the base's own default
SEED = 17
BATCH_SIZE = 16
RANK, ALPHA = 16, 32.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MIN_TOKENS, MAX_TOKENS = 20, 120  # of a row with its system turn
MAX_ASKED, MAX_TOLD = 16, 26  # words, so that the mean row has 66 tokens, 25 of them the system turn's
LONG_TOKENS = 1024


def read_words() -> list[str]:
    """Return the words of the sample documents, in order."""
    files = sorted((ROOT / "data" / "source").rglob("*.md"))
    return [word for file in files for word in re.findall(r"\w[\w'-]*", file.read_text(encoding="utf-8"))]


def make_pairs(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Return questions and answers of up to 120 tokens together, no two of which begin with the same two words."""
    draw = random.Random(SEED)
    pairs, beginnings = [], set()
    while len(pairs) < count:
        start = draw.randrange(len(words) - 100)
        asked, told = draw.randint(4, MAX_ASKED), draw.randint(2, MAX_TOLD)
        question, answer = words[start : start + asked], words[start + asked : start + asked + told]
        pair = " ".join(question) + "?", " ".join(answer) + "."
        size = len(encode_example(tokenizer, conversation(*pair, system=SYSTEM))[0])
        if MIN_TOKENS <= size <= MAX_TOKENS and tuple(question[:2]) not in beginnings:
            beginnings.add(tuple(question[:2]))
            pairs.append(pair)
    return pairs


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], system: str
) -> list[EncodedRow]:
    """Return conversations as ids, with loss on the answer and its end-of-turn token."""
    encoded = [encode_example(tokenizer, conversation(*pair, system=system)) for pair in pairs]
    return [
        EncodedRow(tuple(ids), tuple(labels), str(number)) for number, (ids, labels) in enumerate(encoded)
    ]


def make_long(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], count: int) -> list[EncodedRow]:
    """Return rows of 1,024 tokens of text with loss on the last half."""
    ids = tokenizer(" ".join(words[: 2 * count * LONG_TOKENS]), add_special_tokens=False)["input_ids"]
    half = LONG_TOKENS // 2
    rows = [ids[start : start + LONG_TOKENS] for start in range(0, count * LONG_TOKENS, LONG_TOKENS)]
    return [
        EncodedRow(tuple(row), (IGNORED,) * half + tuple(row[half:]), str(n)) for n, row in enumerate(rows)
    ]


def write_rows(path: Path, rows: Sequence[EncodedRow]) -> None:
    """Write rows in the order of an epoch, like lengths together as the project trains; a short batch comes last."""
    order = epoch_batches(rows, 0, SEED, BATCH_SIZE)
    order.sort(key=len, reverse=True)
    lines = [
        json.dumps({"ids": rows[number].ids, "labels": rows[number].labels})
        for part in order
        for number in part
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_adapter(base: Path, folder: Path) -> None:
    """Write the adapter that both sides start from."""
    attach.seed_everything(SEED)
    model = attach.load_model(base, attach.DTYPES["float32"], "cpu")
    model = adapter.new_adapter(model, adapter.AdapterSettings(RANK, ALPHA, TARGETS))
    adapter.save_adapter(model, folder, BASE)


def prepare(folder: Path, count: int) -> dict[str, object]:
    """Write all files of rows and the adapter; return where the base and the adapter lie."""
    base, adapter = open_base(BASE).folder, folder / "adapter"
    tokenizer, words = attach.load_tokenizer(base), read_words()
    folder.mkdir(parents=True, exist_ok=True)
    pairs = make_pairs(tokenizer, words, 4 * count)
    for number in (count // 4, count, 4 * count):
        write_rows(folder / f"chat-{number}.jsonl", encode_pairs(tokenizer, pairs[:number], SYSTEM))
    write_rows(folder / f"apart-{count}.jsonl", encode_pairs(tokenizer, pairs[:count], ""))
    num_long = max(4, min(8, count // 8))
    write_rows(folder / f"long-{num_long}.jsonl", make_long(tokenizer, words, num_long))
    if not (adapter / "adapter_model.safetensors").exists():
        make_adapter(base, adapter)
    return {"base": str(base), "adapter": str(adapter), "num_long": num_long, "seed": SEED}


if __name__ == "__main__":
    say(prepare(Path(sys.argv[1]), int(sys.argv[2])))
