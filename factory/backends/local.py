"""A GGUF file on this machine as a chat backend. Nothing leaves the process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from factory.backends.engine_shapes import written_as_grammar
from factory.chat.template import encode_file_prompt
from factory.rows import Message


class GgufConfig(Protocol):
    """What a local file needs to be told."""

    gguf: Path | None


class GgufBackend:
    """Answers chats with one GGUF file."""

    def __init__(self, path: Path) -> None:
        """Load the file."""
        from factory.weights.gguf_model import GgufModel

        self._model = GgufModel(path)

    def chat(
        self, messages: Sequence[Message], *, max_tokens: int, schema: Mapping[str, Any] | None = None
    ) -> str:
        """Return the assistant's next turn, decoded greedily: JSON of a schema, if there is one."""
        grammar = written_as_grammar(schema) if schema else None
        prompt = encode_file_prompt(self._model, messages)
        return self._model.detokenize(self._model.generate_greedy(prompt, max_tokens, grammar)).strip()


def open_gguf(config: GgufConfig) -> GgufBackend:
    """Return a backend on the configured file."""
    return GgufBackend(Path(str(config.gguf)))
