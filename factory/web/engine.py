"""The models behind the playground: which files there are, and the one that is loaded. Knows no page."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from factory.bundle.manifest import Manifest, read_manifest
from factory.chat.template import encode_file_prompt
from factory.errors import UsageError
from factory.rows import Message

DIGEST_LENGTH = 12


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file of a bundle, and how it is to be asked."""

    label: str
    path: Path
    sha256: str
    manifest: Manifest

    @property
    def identity(self) -> str:
        """One line that says which bytes answer."""
        digest = self.sha256[:DIGEST_LENGTH]
        return f"{self.path.name} · sha256 {digest} · based on {self.manifest.base.name} · on this machine"


class Answerer(Protocol):
    """Something that answers a conversation piece by piece."""

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the answer as it grows, each time all of it."""
        ...

    def close(self) -> None:
        """Free what the model holds."""
        ...


class GgufStreamer:
    """Answers from a GGUF file with llama.cpp, greedily, within the bundle's limits."""

    def __init__(self, file: ModelFile) -> None:
        """Load the file."""
        from factory.weights.gguf_model import GgufModel

        sampling = file.manifest.sampling
        self._max_tokens, self._room = sampling.num_predict, max(1, sampling.num_ctx - sampling.num_predict)
        self._model = GgufModel(file.path, n_ctx=sampling.num_ctx)

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the answer as it grows; the oldest turns are left out when all do not fit the context."""
        ids: list[int] = []
        for token in self._model.stream_greedy(self._prompt(list(messages)), self._max_tokens):
            ids.append(token)
            yield self._model.detokenize(ids).rstrip("\ufffd").strip()

    def close(self) -> None:
        """Free the file."""
        self._model.close()

    def _prompt(self, messages: list[Message]) -> list[int]:
        oldest = 1 if messages[0].role == "system" else 0
        while True:
            prompt = encode_file_prompt(self._model, messages)
            if len(prompt) <= self._room:
                return prompt
            if len(messages) - oldest < 3:
                raise UsageError(f"The question has {len(prompt)} tokens, {self._room} fit: shorten it")
            del messages[oldest : oldest + 2]


class Engine:
    """Holds the one file in use and answers one question at a time."""

    def __init__(self, open_file: Callable[[ModelFile], Answerer] = GgufStreamer) -> None:
        """Load nothing yet."""
        self._open, self._lock = open_file, threading.Lock()
        self._loaded: tuple[str, Answerer] | None = None

    def stream(self, file: ModelFile, messages: Sequence[Message]) -> Iterator[str]:
        """Yield the answer of a file as it grows; the file is loaded when another was in use."""
        with self._lock:
            if self._loaded is None or self._loaded[0] != file.label:
                if self._loaded:
                    self._loaded[1].close()
                self._loaded = None
                self._loaded = (file.label, self._open(file))
            yield from self._loaded[1].stream(messages)


def list_files(bundles: Sequence[Path]) -> dict[str, ModelFile]:
    """Return the models of bundles by label, each bundle's default file first.

    Raises:
        ExportError: a folder is not a bundle, or its manifest is damaged.
    """
    found = {}
    for bundle in bundles:
        manifest = read_manifest(bundle)
        models = [
            file for file in manifest.files if file.path.endswith(".gguf") and file.path != "adapter.gguf"
        ]
        for file in sorted(models, key=lambda file: (file.path != manifest.default_file, file.path)):
            label = f"{manifest.name}: {file.path.removeprefix('model-').removesuffix('.gguf')}"
            if label in found:
                label = f"{label} ({bundle.parent.name}/{bundle.name})"
            found[label] = ModelFile(label, bundle / file.path, file.sha256, manifest)
    return found
