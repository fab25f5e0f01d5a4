"""What Ollama is told so that it prompts a GGUF file exactly as it was trained: as values and as a Modelfile.

Knows no other file of a bundle and sends nothing.
"""

import re
from dataclasses import dataclass
from typing import Any

from factory.bundle.manifest import Manifest
from factory.chat.turns import TurnTemplate
from factory.errors import ExportError, UsageError

QUOTE = '"""'
# Ollama's types/model/name.go, without a registry before it: what is made here stays here.
MODEL_NAME = re.compile(
    r"(?:[a-z0-9_][a-z0-9_-]{0,79}/)?[a-z0-9_][a-z0-9_.-]{0,79}(?::[a-z0-9_][a-z0-9_.-]{0,79})?",
    re.ASCII | re.IGNORECASE,
)


def check_model_name(name: str) -> None:
    """Make sure that Ollama takes a name for a model.

    Raises:
        UsageError: it does not.
    """
    if not MODEL_NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{name!r} is not a model name for Ollama: write it like acme/hr:q4, of letters, digits, '_', '.' and '-'"
        )


def suggest_model_name(manifest: Manifest, file: str | None = None) -> str:
    """Return what to call a file of a bundle in Ollama; only the default file gets the bundle's bare name."""
    if file is None or file == manifest.default_file:
        return manifest.name
    return f"{manifest.name}:{file.removeprefix('model-').removesuffix('.gguf').lower()}"


@dataclass(frozen=True)
class OllamaSettings:
    """What Ollama is told about a model besides its file; `template` is in Go's syntax.

    `parameters` are keyed by Ollama's names; a list stands for a parameter that is given several times.
    """

    template: str
    system: str
    parameters: dict[str, Any]
    licence: str


def ollama_settings(manifest: Manifest, template: TurnTemplate) -> OllamaSettings:
    """Return what a bundle's Modelfile and a push over HTTP both say.

    Raises:
        ExportError: the template holds what Go templates read as their own.
    """
    sampling, base = manifest.sampling, manifest.base
    # num_predict is endless by default; a repeat penalty would punish answers that quote the question.
    parameters = {
        "stop": list(sampling.stop),
        "num_ctx": sampling.num_ctx,
        "num_predict": sampling.num_predict,
        "temperature": sampling.temperature,
        "repeat_penalty": 1,
    }
    licence = f"The base model {base.name} is licensed under {base.licence}."
    return OllamaSettings(template.as_go(), manifest.system, parameters, licence)


def modelfile(manifest: Manifest, template: TurnTemplate) -> str:
    """Return the text of a bundle's Modelfile.

    The template stands in it although the GGUF file carries one, because Ollama replaces a GGUF template that looks
    like one it knows by its own.

    Raises:
        ExportError: a text holds three double quotes, or ends with one, which a Modelfile cannot hold.
    """
    settings = ollama_settings(manifest, template)
    lines = [f"FROM ./{manifest.default_file}", f"TEMPLATE {_quoted('chat template', settings.template)}"]
    if template.trims:
        lines.append(
            "# The training template also cuts white space off the ends of messages; Ollama does not."
        )
    # An empty one is read and adds no turn (ollama's parser/parser_test.go, server/create.go).
    lines.append(f"SYSTEM {_quoted('system text of the recipe', settings.system)}")
    for key, value in settings.parameters.items():
        lines += [
            f"PARAMETER {key} {_written(each)}" for each in (value if isinstance(value, list) else [value])
        ]
    lines.append(f"LICENSE {_quoted('licence', settings.licence)}")
    return "\n".join(lines) + "\n"


def _written(value: str | int | float) -> str:
    if isinstance(value, str):  # Ollama's parser knows no escapes (parser/parser.go)
        return _quoted("stop mark", value) if '"' in value else f'"{value}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quoted(what: str, text: str) -> str:
    if QUOTE in text or text.endswith('"'):
        raise ExportError(
            f"The {what} holds three double quotes or ends with one, which a Modelfile cannot hold: {text[-60:]!r}; "
            "use single quotes there"
        )
    return f"{QUOTE}{text}{QUOTE}"
