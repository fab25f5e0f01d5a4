"""Writes the generated parts of the documentation: command reference, schemas of recipe and report, module map.

python docs/generate.py [--check]      --check writes nothing and exits 1 if a file on disk differs
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from factory.cli import app
from factory.recipe import recipe_schema

ROOT = Path(__file__).parent.parent


def command_reference() -> str:
    """Return docs/commands.md from the command line's own definitions."""
    group = typer.main.get_command(app)
    lines = ["# Commands", "", "Made by `make docs` from the command line itself.", ""]
    for name, command in _commands(group):
        arguments = " ".join(
            parameter.name.upper() for parameter in command.params if parameter.param_type_name == "argument"
        )
        lines += [f"## factory {name} {arguments}".rstrip(), "", (command.help or "").strip(), ""]
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                lines.append(f"- `{', '.join(parameter.opts)}` {parameter.help or ''}".rstrip())
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _commands(group: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command with its words; groups themselves are none."""
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, f"{above}{name} ")
        else:
            yield f"{above}{name}", command


def module_map() -> str:
    """Return docs/modules.md: the first sentence of every module."""
    lines = ["# Modules", "", "Made by `make docs` from the modules' own first sentences.", ""]
    for path in sorted((ROOT / "factory").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if docstring:
            first = docstring.split("\n")[0].split(". ")[0].rstrip(".")
            lines.append(f"- `{path.relative_to(ROOT).as_posix()}` {first}.")
    return "\n".join(lines) + "\n"


def generated() -> dict[Path, str]:
    """Return every generated file's text by path."""
    from factory.report.model import report_schema

    docs = ROOT / "docs"
    return {
        docs / "commands.md": command_reference(),
        docs / "recipe.schema.json": recipe_schema(),
        docs / "report.schema.json": report_schema(),
        docs / "modules.md": module_map(),
    }


def main() -> int:
    """Write the files, or compare them."""
    different = [
        path for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text
    ]
    if "--check" in sys.argv:
        sys.stdout.write(
            "".join(f"out of date: {path.relative_to(ROOT)}: run `make docs`\n" for path in different)
        )
        return min(1, len(different))
    for path in different:
        path.write_text(generated()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
