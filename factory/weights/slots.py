"""Which tokens go into the next step when many prompts share a few places. Bookkeeping only: no model."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Entry(NamedTuple):
    """One token of a step: where it stands in which sequence, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int
    wants_logits: bool


def chunk_entries(token_ids: Sequence[int], step_tokens: int, sequence: int = 0) -> list[list[Entry]]:
    """Return the steps that feed a sequence from its first token on, no logits wanted."""
    entries = [Entry(token, position, sequence, False) for position, token in enumerate(token_ids)]
    return [entries[i : i + step_tokens] for i in range(0, len(entries), step_tokens)]


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens that all prompts begin with, leaving each prompt at least one of its own."""
    ordered = sorted(map(list, prompts))
    first, last = ordered[0], ordered[-1]  # all others lie between these two, and share what they share
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [token for token, _ in same][: min(map(len, prompts)) - 1]


@dataclass
class _Slot:
    """A place in the step: its prompt, the tokens it still has to feed, and where the next one stands."""

    prompt: int
    pending: list[int]
    position: int


@dataclass
class Slots:
    """The prompts being answered, and the answers so far.

    Args:
        prompts: token ids of each prompt, none empty.
        shared: how many first tokens of each prompt every sequence already holds.
        max_tokens: the longest answer.
        width: the number of places.
        step_tokens: the most tokens a step takes.
    """

    prompts: Sequence[Sequence[int]]
    shared: int
    max_tokens: int
    width: int
    step_tokens: int
    answers: list[list[int]] = field(init=False)
    logprobs: list[list[float]] = field(init=False)
    _busy: dict[int, _Slot] = field(init=False, default_factory=dict)
    _asked: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Queue every prompt."""
        self.answers = [[] for _ in self.prompts]
        self.logprobs = [[] for _ in self.prompts]
        self._waiting = deque(range(len(self.prompts) if self.max_tokens > 0 else 0))

    def fill(self) -> list[int]:
        """Give free places to waiting prompts and return the places that start a new sequence."""
        free = [place for place in range(self.width) if place not in self._busy][: len(self._waiting)]
        for place in free:
            prompt = self._waiting.popleft()
            self._busy[place] = _Slot(prompt, list(self.prompts[prompt][self.shared :]), self.shared)
        return free

    def next_step(self) -> list[Entry]:
        """Return the tokens of the next step, empty when every prompt is answered."""
        entries: list[Entry] = []
        self._asked = []
        for place, slot in sorted(self._busy.items()):  # llama.cpp computes neighbours in order together
            fed = slot.pending[: self.step_tokens - len(entries)]
            slot.pending = slot.pending[len(fed) :]
            ends = not slot.pending
            for i, token in enumerate(fed):
                entries.append(Entry(token, slot.position + i, place, ends and i == len(fed) - 1))
            slot.position += len(fed)
            if fed and ends:
                self._asked.append(place)
        return entries

    def accept(
        self, tokens: Sequence[int], logprobs: Sequence[float], is_stop: Callable[[int], bool]
    ) -> None:
        """Take the token picked for each entry of the last step that wanted logits, in their order.

        `logprobs` are the tokens' log-probabilities in nats; those of tokens that end an answer are kept with it, too.
        """
        for place, token, logprob in zip(self._asked, tokens, logprobs, strict=True):
            slot = self._busy[place]
            answer = self.answers[slot.prompt]
            self.logprobs[slot.prompt].append(logprob)
            if is_stop(token):
                del self._busy[place]
                continue
            answer.append(token)
            slot.pending = [token]
            if len(answer) == self.max_tokens:
                del self._busy[place]
