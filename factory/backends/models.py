"""Any MODEL of the command line, opened: adapter, merged folder, GGUF file, bundle, base. Never scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from factory import artifacts, store
from factory.chat.backend import Answer
from factory.chat.template import conversation, encode_file_prompt
from factory.errors import UsageError

ModelKind = Literal["base", "adapter", "merged", "gguf"]
MAX_ANSWER_TOKENS = 48
CONTEXT_TOKENS = (
    8192  # the longest question with passages above it; a file takes memory for what is asked only
)


class Answerer(Protocol):
    """A model that answers questions, greedily, in batches; passages, if any, stand in the questions."""

    def answer(self, questions: Sequence[str], max_tokens: int = MAX_ANSWER_TOKENS) -> list[Answer]:
        """Return the answer to each question, in order."""
        ...

    def __enter__(self) -> Self:
        """Open the model."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free what the model holds."""
        ...


@dataclass(frozen=True)
class ModelReference:
    """Where a model lies and what it is.

    `base` names the base that an adapter needs, `base_sha256` identifies it and `base_folder` is where it lies
    prepared, each as far as it is known. `system` is the text the model was trained with. An answer from memory that
    is less sure than `sure_from`, in nats, is to be declined; None is not known.
    """

    kind: ModelKind
    name: str
    path: Path | None
    base: str | None = None
    system: str = ""
    base_sha256: str | None = None
    base_folder: Path | None = None
    sure_from: float | None = None


def resolve(model: str) -> ModelReference:
    """Return what a MODEL argument names.

    Raises:
        UsageError: it is neither a model on this disk nor the name of a base.
    """
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return ModelReference(
            "gguf", path.name, path, system=_origin(path)[0], sure_from=read_sure_from(path.parent, path.name)
        )
    if (path / "manifest.json").is_file():
        manifest = store.read_json(path / "manifest.json")
        name, system = manifest["default_file"], manifest["system"]
        return ModelReference("gguf", name, path / name, system=system, sure_from=read_sure_from(path, name))
    if (path / "adapter_config.json").is_file():
        base = store.read_json(path / "adapter_config.json")["base_model_name_or_path"]
        sure_from = read_sure_from(path.parent, path.name)
        return ModelReference("adapter", path.name, path, base, *_origin(path), sure_from=sure_from)
    if (path / "config.json").is_file():
        return ModelReference("merged", path.name, path, system=_origin(path)[0])
    if path.exists():
        raise UsageError(
            f"{model!r} is not a model: name an adapter or merged folder, a .gguf file, a bundle or a base"
        )
    if _reads_as_path(model):
        raise UsageError(
            f"{model!r} does not exist: name an adapter or merged folder, a .gguf file, a bundle or a base"
        )
    return ModelReference("base", model, None, model)


def _reads_as_path(model: str) -> bool:
    """Tell a missing file or folder from the name of a base, which has one slash at most (`owner/name`)."""
    path = Path(model)
    inside = "/" in model and path.parent.is_dir()
    return inside or model.startswith((".", "/", "~")) or model.count("/") > 1 or path.suffix == ".gguf"


def _origin(path: Path) -> tuple[str, str | None]:
    """Return the system text a model was trained with and its base's identity, as its bundle or its run says."""
    manifest = path.parent / "manifest.json"
    if manifest.is_file():
        made = store.read_json(manifest)
        return str(made["system"]), made.get("base", {}).get("sha256")
    place = path.resolve()
    for folder in (place, place.parent / "adapter", place.parent.parent / "adapter"):
        if (folder / "adapter_config.json").is_file() and (folder / artifacts.RECORD).is_file():
            record = artifacts.read_record(folder)
            return str(record.config.get("system", "")), record.inputs.get("base")
    return "", None


def read_sure_from(bundle: Path, name: str) -> float | None:
    """Return how sure a bundle's model has to be of an answer, as its evaluation found."""
    if not (bundle / "manifest.json").is_file():
        return None
    scores = store.read_json(bundle / "manifest.json")["scores"]
    found = (score["when_sure"] for score in scores if score["model"] == name and score["when_sure"])
    return next((hedged["threshold"] for hedged in found), None)


def base_of(adapter: ModelReference) -> ModelReference:
    """Return the untrained base of an adapter, to be asked with the adapter's system text."""
    return replace(adapter, kind="base", name=str(adapter.base), path=None, sure_from=None)


def prepare(reference: ModelReference) -> ModelReference:
    """Return a reference whose base is prepared and whose file looks whole, so that faults show before it is asked.

    Raises:
        BaseModelError: its base cannot be found or read, or its file is damaged.
    """
    if reference.kind == "gguf" and reference.path:
        from factory.weights.gguf_header import check_gguf_header

        check_gguf_header(reference.path)
    if reference.base and reference.base_folder is None:
        from factory.weights.base import open_base

        made = open_base(reference.base, reference.base_sha256)
        return replace(reference, base_folder=made.folder)
    return reference


def open_model(reference: ModelReference, system: str | None = None) -> Answerer:
    """Return a model ready to answer; `system` overrides the system text it was trained with."""
    text = reference.system if system is None else system
    if reference.kind == "gguf" and reference.path:
        return GgufAnswerer(reference.path, text)
    return TorchAnswerer(reference, text)


class GgufAnswerer:
    """A GGUF file in llama.cpp."""

    def __init__(self, path: Path, system: str, lora: Path | None = None) -> None:
        """Load the file."""
        from factory.weights.gguf_model import GgufModel

        self._model, self._system = GgufModel(path, lora=lora, n_ctx=CONTEXT_TOKENS), system

    def answer(self, questions: Sequence[str], max_tokens: int = MAX_ANSWER_TOKENS) -> list[Answer]:
        """Return the greedy answer to each question, in order."""
        prompts = [
            encode_file_prompt(self._model, conversation(question, system=self._system))
            for question in questions
        ]
        return [
            Answer(self._model.detokenize(ids).strip(), sureness)
            for ids, sureness in self._model.complete_batch(prompts, max_tokens)
        ]

    def __enter__(self) -> Self:
        """Return the answerer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the file."""
        self._model.close()


class TorchAnswerer:
    """A base, merged or adapted model in torch, in float32 on a CPU: bf16 moves answers by points."""

    def __init__(self, reference: ModelReference, system: str) -> None:
        """Load weights and tokenizer."""
        import torch

        from factory.lora import attach

        device = attach.pick_device()
        dtype = attach.pick_dtype("auto" if device == "cuda" else "float32", device)
        folder = reference.path if reference.kind == "merged" else prepare(reference).base_folder
        assert folder is not None, "a merged model has a path and a prepared reference a base folder"
        self._tokenizer = attach.load_tokenizer(folder)
        model = attach.load_model(folder, dtype, device, attach.quantization_to_answer(folder, device))
        if reference.kind == "adapter" and reference.path:
            model = attach.load_adapter(model, reference.path)
            if dtype == torch.float32 and not attach.changes_tied(model):
                # No answer is rounded away so, and each token costs a sixth less.
                model = model.merge_and_unload()
        self._model, self._device, self._system = model.eval(), device, system

    def answer(self, questions: Sequence[str], max_tokens: int = MAX_ANSWER_TOKENS) -> list[Answer]:
        """Return the greedy answer to each question, in order."""
        from factory.lora.recall import answer_questions

        return answer_questions(
            self._model, self._tokenizer, questions, self._system, self._device, max_tokens
        )

    def __enter__(self) -> Self:
        """Return the answerer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the weights."""
        del self._model
