"""A GGUF file held open by llama.cpp: its tokenizer, log-probabilities and greedy answers. Knows no messages.

The C library's low-level functions are used: the package's own `Llama` class keeps every logit of a context
in memory and answers one prompt at a time, while here several sequences share each step.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import llama_cpp.llama_cpp as ll
import numpy as np
import numpy.typing as npt

from factory import hardware
from factory.errors import BaseModelError, EvaluateError
from factory.weights.gguf_context import Context, last_warnings, silence_log
from factory.weights.gguf_grammar import Grammar
from factory.weights.gguf_header import check_gguf_header
from factory.weights.slots import Entry, Slots, chunk_entries, common_prefix

CELLS_STEP = 256  # contexts are sized in these steps, so that similar jobs use one again
DEFAULT_CONTEXT_TOKENS = 2048
DEFAULT_PARALLEL = 8


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return log-probabilities in nats over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


class GgufModel:
    """A GGUF model, with or without a GGUF LoRA adapter on top. Not for several threads at once."""

    def __init__(
        self,
        path: Path,
        lora: Path | None = None,
        n_ctx: int = DEFAULT_CONTEXT_TOKENS,
        threads: int | None = None,
    ) -> None:
        """Load the file; its header is checked before llama.cpp sees it.

        Args:
            path: the model file.
            lora: an adapter file that is added at full strength.
            n_ctx: the longest sequence, prompt and answer together, in tokens.
            threads: CPU threads; None takes every core this process may run on.

        Raises:
            BaseModelError: the file or the adapter is damaged, or they do not fit each other.
        """
        self.path, self.n_ctx, self.threads = path, n_ctx, threads or hardware.num_cores()
        self._context: Context | None = None
        check_gguf_header(path)
        silence_log()
        ll.llama_backend_init()
        self._model: Any = ll.llama_model_load_from_file(str(path).encode(), ll.llama_model_default_params())
        if not self._model:
            raise BaseModelError(
                f"llama.cpp cannot load {path.name!r}: {last_warnings()}; get or build it again"
            )
        self._vocab = ll.llama_model_get_vocab(self._model)
        self.vocab_size = int(ll.llama_vocab_n_tokens(self._vocab))
        self._lora = self._load_adapter(lora) if lora else None

    def __enter__(self) -> Self:
        """Return the model itself; leaving the block frees it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the model."""
        self.close()

    def close(self) -> None:
        """Free everything llama.cpp holds for this file, its adapter too; a second call does nothing."""
        if self._context:
            self._context.close()
        if self._model:
            ll.llama_model_free(self._model)
        self._context = self._model = self._lora = None

    @property
    def chat_template(self) -> str | None:
        """The Jinja template stored in the file."""
        found = ll.llama_model_chat_template(self._model, None)
        return found.decode("utf-8") if found else None

    @property
    def bos_id(self) -> int | None:
        """The token that opens a text, where the file names one."""
        token = int(ll.llama_vocab_bos(self._vocab))
        return token if token >= 0 else None

    @property
    def eos_id(self) -> int | None:
        """The token that closes a text, where the file names one."""
        token = int(ll.llama_vocab_eos(self._vocab))
        return token if token >= 0 else None

    @property
    def adds_bos(self) -> bool:
        """Whether servers put the opening token before a prompt by themselves."""
        return bool(ll.llama_vocab_get_add_bos(self._vocab))

    def is_end(self, token: int) -> bool:
        """Tell whether llama.cpp stops generating at this token."""
        return bool(ll.llama_vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str, special: bool = True, as_server: bool = False) -> list[int]:
        """Return a text's token ids.

        Args:
            text: any text.
            special: read `<|im_start|>` and its like as one token each, not letter by letter.
            as_server: add the opening and closing tokens that servers add by themselves.
        """
        data = text.encode("utf-8")
        room = len(data) + 8
        while True:
            ids = (ll.llama_token * room)()
            count = ll.llama_tokenize(self._vocab, data, len(data), ids, room, as_server, special)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def detokenize(self, token_ids: Sequence[int], special: bool = False) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD."""
        ids = (ll.llama_token * len(token_ids))(*token_ids)
        room = 16 * len(token_ids) + 16
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = ll.llama_detokenize(self._vocab, ids, len(ids), buffer, room, False, special)
            if length >= 0:
                return buffer.raw[:length].decode("utf-8", "replace")
            room = -length

    def logprobs(self, token_ids: Sequence[int], start: int = 0) -> npt.NDArray[np.float32]:
        """Return the log-probabilities of every next token, in nats.

        Args:
            token_ids: one sequence of at most `n_ctx` tokens, scored with nothing before it.
            start: leave out the rows of the positions before this one; each costs time and memory.

        Returns:
            Shape (len(token_ids) - start, vocab_size): row i says what follows `token_ids[: start + i + 1]`.
        """
        context = self._open(len(token_ids), 1)
        rows = np.empty((max(len(token_ids) - start, 0), self.vocab_size), dtype=np.float32)
        done = 0
        for entries in chunk_entries(token_ids, context.step_tokens):
            logits = context.decode(
                [entry._replace(wants_logits=entry.position >= start) for entry in entries]
            )
            if len(logits):
                rows[done : done + len(logits)] = log_softmax(logits)
            done += len(logits)
        return rows

    def stream_greedy(
        self, token_ids: Sequence[int], max_tokens: int, grammar: str | None = None
    ) -> Iterator[int]:
        """Yield the likeliest next token again and again, up to and without the one that ends generation.

        Where a grammar is given, in GBNF, it is the likeliest that this allows.
        """
        context = self._open(len(token_ids) + max_tokens, 1)
        with ExitStack() as held:
            rules = held.enter_context(Grammar(self._vocab, grammar)) if grammar else None
            yield from self._stream(context, token_ids, max_tokens, rules)

    def _stream(
        self, context: Context, token_ids: Sequence[int], max_tokens: int, rules: Grammar | None
    ) -> Iterator[int]:
        for entries in chunk_entries(token_ids[:-1], context.step_tokens):
            context.decode(entries)
        token = token_ids[-1]
        for position in range(len(token_ids) - 1, len(token_ids) - 1 + max_tokens):
            logits = context.decode([Entry(token, position, 0, True)])[0]
            token = rules.take(logits) if rules else int(logits.argmax())
            if self.is_end(token):
                return
            yield token

    def generate_greedy(
        self, token_ids: Sequence[int], max_tokens: int, grammar: str | None = None
    ) -> list[int]:
        """Return the greedy continuation of one prompt, without the token that ends it."""
        return list(self.stream_greedy(token_ids, max_tokens, grammar))

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        stop_ids: Sequence[int] = (),
        parallel: int = DEFAULT_PARALLEL,
    ) -> list[list[int]]:
        """Return the greedy continuation of each prompt, several prompts a step.

        A prompt that ends hands its place to the next one; what all prompts begin with is computed once.

        Args:
            prompts: token ids, each at most `n_ctx - max_tokens` long.
            max_tokens: the longest answer.
            stop_ids: tokens that end an answer besides the file's own; they are kept out of it too.
            parallel: sequences that share a step.

        Returns:
            The new tokens of each prompt, in the order given. One shorter than `max_tokens` ended by itself.
        """
        return self._continue(prompts, max_tokens, stop_ids, parallel).answers if prompts else []

    def complete_batch(
        self, prompts: Sequence[Sequence[int]], max_tokens: int
    ) -> list[tuple[list[int], float]]:
        """Return what `generate_batch` does, each with the mean log-probability, in nats, of its tokens and its end."""
        if not prompts:
            return []
        slots = self._continue(prompts, max_tokens, (), DEFAULT_PARALLEL)
        return [
            (answer, fmean(logprobs) if logprobs else 0.0)
            for answer, logprobs in zip(slots.answers, slots.logprobs, strict=True)
        ]

    def _continue(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, stop_ids: Sequence[int], parallel: int
    ) -> Slots:
        shared = common_prefix(prompts)
        keeper = min(
            parallel, len(prompts)
        )  # the sequence after those that answer keeps the shared beginning
        context = self._open(max(map(len, prompts)) + max_tokens, keeper + 1)
        slots = Slots(prompts, len(shared), max_tokens, keeper, context.step_tokens)
        stops = set(stop_ids)
        for entries in chunk_entries(shared, context.step_tokens, keeper):
            context.decode(entries)
        self._refill(context, slots, keeper)
        while entries := slots.next_step():
            logits = context.decode(entries)
            likeliest = logits.argmax(axis=-1)
            slots.accept(
                likeliest.tolist(),
                (-np.log(np.exp(logits - logits.max(axis=-1, keepdims=True)).sum(axis=-1))).tolist(),
                lambda token: token in stops or self.is_end(token),
            )
            self._refill(context, slots, keeper)
        return slots

    def _refill(self, context: Context, slots: Slots, keeper: int) -> None:
        for place in slots.fill():
            context.start_from(keeper, place)

    def _load_adapter(self, path: Path) -> Any:
        check_gguf_header(path)
        adapter = ll.llama_adapter_lora_init(self._model, str(path).encode())
        if not adapter:
            self.close()
            raise BaseModelError(
                f"llama.cpp cannot put the adapter {path.name!r} on {self.path.name!r}: {last_warnings()}; "
                "use the base model the adapter was trained on"
            )
        return adapter

    def _open(self, longest: int, num_sequences: int) -> Context:
        """Return an empty context; the one at hand when it is large enough."""
        if longest > self.n_ctx:
            raise EvaluateError(
                f"A sequence of {longest} tokens does not fit n_ctx={self.n_ctx}: shorten it or raise n_ctx"
            )
        cells = longest + -longest % CELLS_STEP
        old = self._context
        if old and old.cells >= cells and old.num_sequences >= num_sequences:
            old.clear()
            return old
        if old:
            old.close()
        self._context = Context(
            self._model, self._lora, cells=cells, num_sequences=num_sequences, threads=self.threads
        )
        return self._context
