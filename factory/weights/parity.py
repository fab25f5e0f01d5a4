"""Numbers that say whether two forms of one model are the same: token ids and log-probabilities.

Shapes: T scored positions, V tokens of the vocabulary; log-probabilities are natural. Judges nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from factory.chat.template import conversation, render
from factory.rows import Message
from factory.weights.gguf_model import GgufModel

LogProbs = npt.NDArray[np.float32]
TOP = 5

# What tokenizers rebuilt from another format get wrong: digits, runs of spaces, spaces that are not U+0020,
# signs outside the basic plane, combining marks, letters without case, marks of the template.
HARD_TEXTS = (
    "0 7 42 2026 1234567890 3.14159 1,000,000 4711-0815 v1.2.3 0x1F",
    "a  b   c    d     e\tf\t\tg",
    " leading and trailing ",
    "line one\nline two\r\n\r\n\n  indented\n",
    "no\u00a0break\u202fspaces\u2009thin\u3000wide",
    "zero\u200bwidth\u200djoiner\ufeffmark",
    "😀👩‍🔧🇨🇭👍🏽 ✅ ➜",
    "naïve café Zürich Ærøskøbing Łódź İstanbul straße",
    "e\u0301 n\u0303 combining, é ñ composed",
    "ﬁ ① Ⅷ ½ ² ³ ™ № ‰",
    "Ελλάδα Россия ישראל مرحبا हिन्दी ไทย 日本語 한국어 中文",
    "don't we're I've she'll I'm you'd it's DON'T",
    "snake_case camelCase kebab-case path/to/file.txt C:\\dir user@example.org https://example.org/?q=1&r=2",
    '{"key": [1, 2.5, null], "text": "a\\nb"} <tag attr="x"/> | a | b | `code` **bold**',
    "!!! ??? ... --- *** ### ((( ))) €100 £5 $3 50% #7 §12",
    "user text with <|im_start|> and <|im_end|> and <|endoftext|> inside",
    "The quick brown fox jumps over the lazy dog.",
    "",
)


def hard_conversations(system: str) -> list[tuple[Message, ...]]:
    """Return prompts that show template faults: with and without a system turn, one and several turns."""
    first, *rest = HARD_TEXTS
    turns = (*conversation(first, rest[0]), *conversation(rest[1]))
    found = [conversation(text, system=said) for text in HARD_TEXTS for said in ("", system or "Be brief.")]
    return [*found, turns, (Message(role="system", content="Be brief.\n"), *turns)]


def hard_texts(tokenizer: Any, system: str) -> list[str]:
    """Return the hard prompts as a tokenizer's template writes them."""
    return [render(tokenizer, messages) for messages in hard_conversations(system)]


def unequal_tokens(tokenizer: Any, model: GgufModel, texts: Sequence[str]) -> list[str]:
    """Return the texts whose ids differ between a Hugging Face tokenizer and a GGUF file's."""
    return [
        text
        for text in texts
        if model.tokenize(text) != tokenizer(text, add_special_tokens=False)["input_ids"]
    ]


def server_tokens(model: GgufModel, prompt: str) -> list[int]:
    """Return a rendered prompt's ids as llama.cpp's server makes them.

    The server adds the opening token where the file says so, after taking one off that the template wrote
    (common/chat.cpp, `apply`).
    """
    if model.adds_bos and model.bos_id is not None:
        prompt = prompt.removeprefix(model.detokenize([model.bos_id], special=True))
    return model.tokenize(prompt, as_server=True)


def doubled_bos(model: GgufModel, prompts: Iterable[str]) -> int:
    """Return how many prompts a server would open with two opening tokens."""
    opening = [model.bos_id, model.bos_id]
    return sum(server_tokens(model, prompt)[:2] == opening for prompt in prompts)


def torch_logprobs(model: torch.nn.Module, token_ids: Sequence[int], start: int) -> LogProbs:
    """Return a transformers model's log-probabilities after each position from one on, shape (T, V)."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0, start:]
        return logits.float().log_softmax(-1).numpy()


def top_differences(reference: LogProbs, other: LogProbs) -> npt.NDArray[np.float32]:
    """Return by how many nats the reference's five likeliest tokens differ at most, shape (T,)."""
    top = np.argpartition(reference, -TOP, axis=-1)[:, -TOP:]
    differences = np.take_along_axis(reference, top, axis=-1) - np.take_along_axis(other, top, axis=-1)
    return np.abs(differences).max(axis=-1)


def kl_divergences(reference: LogProbs, other: LogProbs) -> npt.NDArray[np.float32]:
    """Return the Kullback-Leibler divergence of a model from the reference in nats, shape (T,)."""
    return np.einsum("tv,tv->t", np.exp(reference), reference - other)


def same_top(reference: LogProbs, other: LogProbs) -> npt.NDArray[np.bool_]:
    """Return where both models hold the same token for the likeliest, shape (T,)."""
    return reference.argmax(axis=-1) == other.argmax(axis=-1)
