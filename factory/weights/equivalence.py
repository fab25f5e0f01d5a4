"""Whether adapter, merged model and GGUF files behave alike on the user's own conversations. Judges nothing.

Differences between two forms of the same weights are measured at every position, divergences of quantized
files on answer tokens only: an adapter trained on answers leaves the model free in users' words, which nobody
asks it for, and there a 4-bit file of SmolLM2-135M diverges three times as far (0.09 nat against 0.03).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factory.chat.template import end_of_turn_id
from factory.errors import EvaluateError
from factory.weights import parity
from factory.weights.conversations import Conversation, encode, load_tokenizer, read_messages, spread
from factory.weights.gguf_model import GgufModel
from factory.weights.merged import load_adapted, load_model
from factory.weights.slots import common_prefix

MAX_ROW_TOKENS = 1024


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    prompts: int
    compared_tokens: int
    scored_tokens: int
    text_lines: int
    answer_tokens: int


@dataclass(frozen=True)
class ScoredRow:
    """Token ids, and the first position whose next token counts."""

    token_ids: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Probe:
    """What every form of the model is measured on.

    `prompts` are to be answered, `compared` rows count from where they begin to differ, `gold` rows on their
    answers.
    """

    tokenizer: Any
    texts: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]
    compared: tuple[ScoredRow, ...]
    gold: tuple[ScoredRow, ...]
    answer_tokens: int


@dataclass(frozen=True)
class AdapterReference:
    """Log-probabilities of base plus adapter on the compared rows; `effect` is how far it moved them."""

    logprobs: list[parity.LogProbs]
    effect: float


@dataclass(frozen=True)
class Behaviour:
    """What a file does with texts and prompts; `equal_tokens` and `ended` are shares, `said` the answers."""

    equal_tokens: float
    first_unequal: str | None
    same_template: bool
    doubled_bos: int
    ended: float
    said: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class F16Reference:
    """What the F16 file says on the compared rows, and on `rows` that count on its own and gold answers."""

    behaviour: Behaviour
    compared: list[parity.LogProbs]
    rows: list[ScoredRow]
    answers: list[parity.LogProbs]


def gather(merged: Path, dataset: Path, system: str, sizes: Sizes) -> Probe:
    """Return what to measure on: held-out conversations, and training ones where those are too few.

    Raises:
        EvaluateError: the dataset holds no conversation.
    """
    tokenizer = load_tokenizer(merged)
    heldout = [encode(tokenizer, row) for row in read_messages(dataset / "valid.jsonl", system)]
    wanted = sizes.prompts + sizes.scored_tokens
    trained = [encode(tokenizer, row) for row in spread(list(read_messages(dataset / "train.jsonl")), wanted)]
    if not heldout and not trained:
        raise EvaluateError(
            f"{str(dataset)!r} holds no conversation to measure the files on: run curate again"
        )
    rows = [
        *spread(heldout, sizes.prompts),
        *spread(trained, max(sizes.prompts - len(heldout), len(heldout))),
    ]
    lines = [
        line
        for row in [*heldout, *trained]
        for message in row.messages
        for line in message.content.split("\n")
    ]
    longest = max(len(row.token_ids) - len(row.prompt_ids) for row in rows)
    return Probe(
        tokenizer,
        (*parity.hard_texts(tokenizer, system), *spread(lines, sizes.text_lines)),
        tuple(row.prompt_ids[-MAX_ROW_TOKENS:] for row in rows[: sizes.prompts]),
        _up_to(_differing(rows), sizes.compared_tokens),
        _up_to([_answer(row) for row in (trained or heldout)], sizes.scored_tokens // 2),
        min(max(sizes.answer_tokens, 2 * longest), MAX_ROW_TOKENS),
    )


def measure_adapter(base: Path, adapter: Path, probe: Probe) -> AdapterReference:
    """Return what base plus adapter says, in float32 and not merged: the model that all others must equal."""
    model = load_adapted(base, adapter)
    adapted = [parity.torch_logprobs(model, row.token_ids, row.start) for row in probe.compared]
    with model.disable_adapter():
        plain = [parity.torch_logprobs(model, row.token_ids, row.start) for row in probe.compared[:2]]
    moved = [np.abs(a - b).max() for a, b in zip(adapted, plain, strict=False)]
    return AdapterReference(adapted, float(max(moved)))


def measure_merged(folder: Path, probe: Probe) -> list[parity.LogProbs]:
    """Return a merged folder's log-probabilities of the compared rows, computed in float32."""
    model = load_model(folder)
    return [parity.torch_logprobs(model, row.token_ids, row.start) for row in probe.compared]


def measure_rows(model: GgufModel, rows: Sequence[ScoredRow]) -> list[parity.LogProbs]:
    """Return a GGUF model's log-probabilities of each row."""
    return [model.logprobs(row.token_ids, row.start) for row in rows]


def mean_difference(expected: Sequence[parity.LogProbs], found: Sequence[parity.LogProbs]) -> float:
    """Return the mean over all positions of `parity.top_differences`, in nats."""
    return float(
        np.concatenate([parity.top_differences(*pair) for pair in zip(expected, found, strict=True)]).mean()
    )


def measure_behaviour(model: GgufModel, probe: Probe) -> Behaviour:
    """Return what a GGUF file does with the probe's texts and prompts."""
    unequal = parity.unequal_tokens(probe.tokenizer, model, probe.texts)
    said = model.generate_batch(probe.prompts, probe.answer_tokens)
    return Behaviour(
        equal_tokens=1 - len(unequal) / len(probe.texts),
        first_unequal=unequal[0] if unequal else None,
        same_template=model.chat_template == probe.tokenizer.chat_template,
        doubled_bos=parity.doubled_bos(model, probe.texts),
        ended=float(np.mean([len(answer) < probe.answer_tokens for answer in said])),
        said=tuple(map(tuple, said)),
    )


def measure_f16(model: GgufModel, probe: Probe) -> F16Reference:
    """Return everything about the F16 file that the other files are judged by."""
    behaviour = measure_behaviour(model, probe)
    end = end_of_turn_id(probe.tokenizer)
    answered = zip(probe.prompts, behaviour.said, strict=True)
    rows = [ScoredRow((*prompt, *answer, end)[:-1], len(prompt) - 1) for prompt, answer in answered] + [
        *probe.gold
    ]
    return F16Reference(behaviour, measure_rows(model, probe.compared), rows, measure_rows(model, rows))


def divergence(expected: Sequence[parity.LogProbs], found: Sequence[parity.LogProbs]) -> float:
    """Return the mean KL divergence from what was expected, in nats."""
    return float(
        np.concatenate([parity.kl_divergences(*pair) for pair in zip(expected, found, strict=True)]).mean()
    )


def same_top(expected: Sequence[parity.LogProbs], found: Sequence[parity.LogProbs]) -> float:
    """Return the share of positions whose likeliest token is the same."""
    return float(
        np.concatenate([parity.same_top(*pair) for pair in zip(expected, found, strict=True)]).mean()
    )


def _differing(rows: Sequence[Conversation]) -> list[ScoredRow]:
    """Return rows that count from where they begin to differ; what alone would fill a row is cut at its front."""
    shared = len(common_prefix([row.token_ids for row in rows])) if len(rows) > 1 else 1
    cut = shared - MAX_ROW_TOKENS // 2 if shared >= MAX_ROW_TOKENS else 0
    kept = slice(cut, cut + MAX_ROW_TOKENS)
    return [ScoredRow(row.token_ids[kept], max(shared - 1 - cut, 0)) for row in rows]


def _answer(row: Conversation) -> ScoredRow:
    start = min(len(row.prompt_ids), MAX_ROW_TOKENS) - 1
    return ScoredRow(row.token_ids[:-1][:MAX_ROW_TOKENS], start)


def _up_to(rows: Sequence[ScoredRow], num_tokens: int) -> tuple[ScoredRow, ...]:
    """Return the first rows that together count about so many tokens, at least one."""
    kept: list[ScoredRow] = []
    total = 0
    for row in rows:
        if kept and total >= num_tokens:
            break
        kept.append(row)
        total += len(row.token_ids) - row.start
    return tuple(kept)
