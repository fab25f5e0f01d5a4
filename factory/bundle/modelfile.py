"""The Modelfile that makes Ollama prompt a GGUF file exactly as it was trained. Knows no other file of a bundle."""

from factory.bundle.manifest import Manifest
from factory.bundle.template import TurnTemplate
from factory.errors import ExportError

QUOTE = '"""'


def modelfile(manifest: Manifest, template: TurnTemplate) -> str:
    """Return the text of a bundle's Modelfile.

    The template stands in it although the GGUF file carries one, because Ollama replaces a GGUF template that looks
    like one it knows by its own.

    Raises:
        ExportError: a text holds three double quotes, or ends with one, which a Modelfile cannot hold.
    """
    sampling, base = manifest.sampling, manifest.base
    lines = [f"FROM ./{manifest.default_file}", f"TEMPLATE {_quoted('chat template', template.as_go())}"]
    if template.trims:
        lines.append(
            "# The training template also cuts white space off the ends of messages; Ollama does not."
        )
    # An empty one is read and adds no turn (ollama's parser/parser_test.go, server/create.go).
    lines.append(f"SYSTEM {_quoted('system text of the recipe', manifest.system)}")
    lines += [f'PARAMETER stop "{stop}"' for stop in sampling.stop]
    # num_predict is endless by default; a repeat penalty would punish answers that quote the question.
    lines += [
        f"PARAMETER num_ctx {sampling.num_ctx}",
        f"PARAMETER num_predict {sampling.num_predict}",
        f"PARAMETER temperature {sampling.temperature:g}",
        "PARAMETER repeat_penalty 1",
        f"LICENSE {_quoted('licence', f'The base model {base.name} is licensed under {base.licence}.')}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(what: str, text: str) -> str:
    if QUOTE in text or text.endswith('"'):
        raise ExportError(
            f"The {what} holds three double quotes or ends with one, which a Modelfile cannot hold: {text[-60:]!r}; "
            "use single quotes there"
        )
    return f"{QUOTE}{text}{QUOTE}"
