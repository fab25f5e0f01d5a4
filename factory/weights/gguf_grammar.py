"""Answers held to a grammar: the likeliest token that llama.cpp's grammar allows next, one after the other."""

import ctypes
from types import TracebackType
from typing import Any, Self

import llama_cpp.llama_cpp as ll
import numpy as np
import numpy.typing as npt

from factory.errors import EvaluateError

CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # a llama_token_data


class Grammar:
    """A grammar in GBNF at the place that an answer has reached."""

    def __init__(self, vocab: Any, grammar: str) -> None:
        """Read the grammar for a model's vocabulary.

        Raises:
            EvaluateError: llama.cpp cannot read it.
        """
        self._sampler = ll.llama_sampler_init_grammar(vocab, grammar.encode(), b"root")
        if not self._sampler:
            raise EvaluateError("llama.cpp cannot read the grammar of an answer: simplify its JSON schema")

    def __enter__(self) -> Self:
        """Return the grammar itself; leaving the block frees it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free it."""
        ll.llama_sampler_free(self._sampler)

    def take(self, logits: npt.NDArray[np.float32]) -> int:
        """Return the likeliest token that may come next, of logits (vocab_size,), and go on behind it."""
        token = int(logits.argmax())
        if not self._allowed(np.array([token]), logits).size:
            allowed = self._allowed(np.arange(len(logits)), logits)
            token = int(allowed[logits[allowed].argmax()])
        ll.llama_sampler_accept(self._sampler, token)
        return token

    def _allowed(
        self, tokens: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.int32]:
        """Return those of some tokens that may come next; at the end of the grammar these are the ends of an answer."""
        rows = np.zeros(len(tokens), dtype=CANDIDATE)
        rows["id"], rows["logit"] = tokens, logits[tokens]
        first = ctypes.cast(rows.ctypes.data, ctypes.POINTER(ll.llama_token_data))
        candidates = ll.llama_token_data_array(first, len(rows), -1, False)
        ll.llama_sampler_apply(self._sampler, ctypes.byref(candidates))
        kept: npt.NDArray[np.int32] = rows["id"][np.isfinite(rows["logit"])]
        return kept
