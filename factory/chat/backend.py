"""What answers a conversation: files here and endpoints elsewhere do. Knows neither."""

from collections.abc import Sequence
from typing import Protocol

from factory.rows import Message


class ChatBackend(Protocol):
    """Something that answers a conversation."""

    def chat(self, messages: Sequence[Message], *, max_tokens: int) -> str:
        """Return the assistant's next turn, decoded greedily."""
        ...
