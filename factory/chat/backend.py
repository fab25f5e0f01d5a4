"""What answers a conversation, and what an answer is: files here and endpoints elsewhere give them. Knows neither."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from factory.rows import Message


@dataclass(frozen=True)
class Answer:
    """A reply and how sure its model was of it: the mean log-probability of its tokens and its end, in nats.

    That is the length-normalised log-probability of Malinin & Gales (arXiv:2002.07650); two answers of the same text
    are equal.
    """

    text: str
    sureness: float = field(compare=False)


class ChatBackend(Protocol):
    """Something that answers a conversation."""

    def chat(
        self, messages: Sequence[Message], *, max_tokens: int, schema: Mapping[str, Any] | None = None
    ) -> str:
        """Return the assistant's next turn, decoded greedily: JSON of a schema, if there is one.

        An answer that is cut off at `max_tokens` is no whole JSON.
        """
        ...
