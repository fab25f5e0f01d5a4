"""A bundle's README: which file is which, and the exact command for every runtime. Pure text, no files."""

import re
import shlex

from factory.bundle.manifest import Manifest

# `store.cache_folder`, as a shell says it.
CACHE = "${ADAPTER_FACTORY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/adapter-factory}"


def readme(manifest: Manifest) -> str:
    """Return the README: which file is which, and the exact command for every runtime."""
    name, file, sampling = manifest.name, manifest.default_file, manifest.sampling
    system = f" -sys {shlex.quote(manifest.system)}" if manifest.system else ""
    limits = f"-c {sampling.num_ctx} -n {sampling.num_predict} --temp {sampling.temperature:g}"
    files = "\n".join(
        f"- `{entry.path}`: {_purpose(entry.path, file)}"
        for entry in manifest.files
        if _purpose(entry.path, file)
    )
    has_adapter = any(entry.path == "adapter.gguf" for entry in manifest.files)
    sections = [
        f"# {name}: bundle",
        "Run the commands in this folder, those of this project with its environment active.",
        files,
        "## This project",
        _code("factory ask . 'your question'\nfactory verify ."),
        "To serve it, an OpenAI-style API at `/v1` and the playground at `/ui`:",
        _code("factory serve ."),
        "## Ollama",
        _code(f"ollama create {name} -f Modelfile\nollama run {name} 'your question'"),
        "Or give it to an Ollama that is running: `factory push-ollama .`",
        "## llama.cpp",
        _code(
            f"llama-cli -m {file} {limits}{system}\nllama-server -m {file} {limits} --host 127.0.0.1 --port 8080"
        ),
        *_server_note(manifest.system),
        *_adapter_note(has_adapter, manifest, f"{limits}{system}"),
        "## LM Studio",
        _code(f"lms import --copy {file}"),
        "LM Studio reads the prompt template from the file."
        + (" Paste the system text above into the chat's system prompt." if manifest.system else ""),
        "## Ask the test questions again",
        "`lm_eval/` holds the questions that the scores come from, with their answers, as tasks of EleutherAI's "
        "lm-evaluation-harness. Whoever gets this folder can read them. The base is the one this project keeps in its "
        "cache:",
        _code(_harness(manifest)),
        "In its table `named` comes closest to the scores of the model card.",
        "## Check the files",
        _code("sha256sum -c SHA256SUMS"),
    ]
    return "\n\n".join(sections) + "\n"


def _code(commands: str) -> str:
    """Return commands in a fence longer than any run of backticks in them."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", commands)), default=0))
    return f"{fence}bash\n{commands}\n{fence}"


def _harness(manifest: Manifest) -> str:
    system = f" --system_instruction {shlex.quote(manifest.system)}" if manifest.system else ""
    model = f'pretrained="{CACHE}"/{_base_folder(manifest)},peft=../adapter'
    tasks = "--tasks adapter_factory --include_path . --apply_chat_template"
    return f"cd lm_eval\nlm_eval --model hf --model_args {model} {tasks}{system}"


def _base_folder(manifest: Manifest) -> str:
    """Return the folder of the base in the cache, quoted for a shell."""
    return shlex.quote(f"bases/{manifest.base.name}-{manifest.base.sha256[:12]}")


def _purpose(path: str, default: str) -> str:
    if path == default:
        return "the model; the Modelfile and the commands below use it"
    if path == "adapter.gguf":
        return "the adapter alone, for llama.cpp on top of the base"
    if path.endswith(".gguf"):
        return "the model in another size"
    if path == "adapter/adapter_model.safetensors":
        return "the adapter for PEFT: the master copy"
    return ""


def _server_note(system: str) -> list[str]:
    if not system:
        return []
    return [
        f"It was trained with this system text; send it as the first message to `llama-server`:\n\n> {_quote(system)}"
    ]


def _quote(text: str) -> str:
    return text.replace("\n", "\n> ")


def _adapter_note(has_adapter: bool, manifest: Manifest, options: str) -> list[str]:
    if not has_adapter:
        return []
    return [
        f"The adapter alone runs on the F16 file of its base `{manifest.base.name}`, which this project keeps in its "
        "cache and `factory verify .` puts there. Another base loads as well and answers nonsense:",
        _code(f'llama-cli -m "{CACHE}"/{_base_folder(manifest)}/base-F16.gguf --lora adapter.gguf {options}'),
    ]
