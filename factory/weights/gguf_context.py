"""One llama.cpp context: the memory of a few sequences and the step that computes logits. Knows no text."""

import ctypes
from collections import deque
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as ll
import numpy as np
import numpy.typing as npt

from factory.errors import EvaluateError
from factory.weights.slots import Entry

STEP_TOKENS = (
    512  # llama.cpp's default physical batch: larger ones need more memory and are not faster on a CPU
)
KEPT_LOG_LINES = 12
WARNING_LEVEL, ERROR_LEVEL = 3, 4  # ggml_log_level in ggml/include/ggml.h; 1 is debug, 2 info

_log: deque[tuple[int, str]] = deque(maxlen=KEPT_LOG_LINES)


@ll.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_warnings(level: int, text: bytes, _user_data: Any) -> None:
    if level in (WARNING_LEVEL, ERROR_LEVEL):
        _log.append((level, text.decode("utf-8", "replace").strip()))


def silence_log() -> None:
    """Keep only the last few warnings of llama.cpp's log, which error messages quote; forget older ones."""
    _log.clear()
    ll.llama_log_set(_keep_warnings, ctypes.c_void_p(0))


def last_warnings() -> str:
    """Return llama.cpp's latest errors, or else its warnings, in one line."""
    worst = max((level for level, _ in _log), default=0)
    return " | ".join(line for level, line in _log if level == worst) or "llama.cpp gave no reason"


class Context:
    """Room for a few sequences of one model.

    Each sequence has memory of its own (`kv_unified` off): with one memory for all, flash attention sums in
    another order as more sequences join, which flips roundings of quantized activations and so whole answers.
    """

    def __init__(self, model: Any, lora: Any, *, cells: int, num_sequences: int, threads: int) -> None:
        """Reserve the memory.

        Args:
            model: llama.cpp's pointer to the model, which must outlive the context.
            lora: llama.cpp's pointer to an adapter that is added at full strength, or None.
            cells: the longest sequence in tokens.
            num_sequences: sequences that can share a step.
            threads: CPU threads.

        Raises:
            EvaluateError: there is too little memory.
        """
        self.cells, self.num_sequences = cells, num_sequences
        self._vocab_size = int(ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model)))
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = cells * num_sequences, num_sequences, False
        params.n_batch = params.n_ubatch = STEP_TOKENS
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._pointer = ll.llama_init_from_model(model, params)
        if not self._pointer:
            raise EvaluateError(
                f"llama.cpp has no room for {num_sequences} sequences of {cells} tokens: {last_warnings()}; "
                "free some memory"
            )
        self.step_tokens = min(STEP_TOKENS, int(ll.llama_n_batch(self._pointer)))
        self._batch = ll.llama_batch_init(self.step_tokens, 0, 1)
        if lora:
            adapters, scales = (ll.llama_adapter_lora_p_ctypes * 1)(lora), (ctypes.c_float * 1)(1.0)
            if ll.llama_set_adapters_lora(self._pointer, adapters, 1, scales):
                raise EvaluateError(f"llama.cpp did not apply the adapter: {last_warnings()}; make it again")

    def close(self) -> None:
        """Free the memory; a second call does nothing."""
        if self._pointer:
            ll.llama_batch_free(self._batch)
            ll.llama_free(self._pointer)
        self._pointer = None

    def clear(self) -> None:
        """Forget all sequences."""
        ll.llama_memory_clear(ll.llama_get_memory(self._pointer), True)

    def start_from(self, source: int, target: int) -> None:
        """Let one sequence hold exactly what another holds, without computing it again."""
        memory = ll.llama_get_memory(self._pointer)
        ll.llama_memory_seq_rm(memory, target, -1, -1)
        ll.llama_memory_seq_cp(memory, source, target, -1, -1)

    def decode(self, entries: Sequence[Entry]) -> npt.NDArray[np.float32]:
        """Feed at most `step_tokens` tokens and return the logits that were wanted.

        Returns:
            Shape (entries that want logits, vocab_size), in their order; a view that the next call
            overwrites.

        Raises:
            EvaluateError: llama.cpp refused the step.
        """
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, entry in enumerate(entries):
            batch.token[i], batch.pos[i] = entry.token, entry.position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, entry.sequence
            batch.logits[i] = entry.wants_logits
        code = ll.llama_decode(self._pointer, batch)
        if code:
            raise EvaluateError(
                f"llama.cpp refused {len(entries)} tokens with code {code}: {last_warnings()}"
            )
        num_rows = sum(entry.wants_logits for entry in entries)
        if not num_rows:
            return np.empty((0, self._vocab_size), dtype=np.float32)
        return np.ctypeslib.as_array(ll.llama_get_logits(self._pointer), (num_rows, self._vocab_size))
