"""Closed-book recall of a model in memory: greedy answers, right when an accepted answer stands in them."""

from collections.abc import Sequence
from typing import Any

from factory.chat.backend import Answer
from factory.chat.template import conversation, encode_prompt
from factory.lora.greedy import find_stop_ids, greedy
from factory.rows import Question
from factory.text import normalize

MAX_ANSWER_TOKENS = 32
BATCH_SIZE = 64


def answer_questions(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    system: str,
    device: str,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> list[Answer]:
    """Return the greedy answer to each question, in order."""
    stop = find_stop_ids(model, tokenizer)
    prompts = [encode_prompt(tokenizer, conversation(question, system=system)) for question in questions]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stop)
    replies = greedy(
        model, prompts, max_tokens=max_tokens, stop_ids=stop, pad_id=pad, device=device, batch_size=BATCH_SIZE
    )
    return [
        Answer(tokenizer.decode(reply.ids, skip_special_tokens=True).strip(), reply.sureness)
        for reply in replies
    ]


class Recall:
    """The share of questions that the model being trained answers; 0 when there are no questions."""

    def __init__(
        self, model: Any, tokenizer: Any, questions: Sequence[Question], system: str, device: str
    ) -> None:
        """Keep the model and the questions."""
        self._model, self._tokenizer, self._system, self._device = model, tokenizer, system, device
        self._questions = questions

    def __call__(self) -> float:
        """Ask all questions and return the share answered right."""
        if not self._questions:
            return 0.0
        texts = [question.question for question in self._questions]
        replies = answer_questions(self._model, self._tokenizer, texts, self._system, self._device)
        right = [
            any(normalize.contains(reply.text, answer) for answer in question.answers)
            for question, reply in zip(self._questions, replies, strict=True)
        ]
        return sum(right) / len(right)
