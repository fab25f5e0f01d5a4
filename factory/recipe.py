"""Recipes: one YAML file that states a whole run. Reads, overrides and checks them; runs nothing."""

import difflib
import io
import json
import os
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from factory.errors import RecipeError
from factory.lora.config import TrainConfig  # noqa: TID253  (it imports no torch)
from factory.stages.chunk import ChunkConfig
from factory.stages.curate import CurateConfig
from factory.stages.evaluate import EvaluateConfig
from factory.stages.export import ExportConfig
from factory.stages.ingest import IngestConfig
from factory.stages.merge import MergeConfig
from factory.stages.quantize import QuantizeConfig
from factory.stages.synthesize import SynthesizeConfig
from factory.stages.verify import VerifyConfig
from factory.text.normalize import is_unicode

MAX_RECIPE_BYTES = (
    32 << 10
)  # ten of our largest; the YAML parser needs a second for as much of the worst kind
MAX_DEPTH = 32
MAX_FAULTS = 100
YAML_FAULTS = (
    YAMLError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
NAME_RULE = (
    "has lower-case letters, digits, '.', '_' and '-', begins with a letter or digit, and ends by the 64th"
)
PATH_KEYS = (
    ("ingest", "source"),
    ("evaluate", "questions"),
    ("synthesize", "teacher", "gguf"),
    ("synthesize", "feedback"),
    ("train", "continue_from"),
    ("train", "preferences"),
)


class Recipe(BaseModel):
    """Everything one run needs to know, one section a stage.

    `name` names the output folder and the bundle. `base` is a name from the registry, a hub id, a local
    folder or a .gguf file. `system` is the one system text of training, evaluation and serving; empty means
    no system turn. `seed` fixes every random choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    base: str = Field(default="smollm2-135m-instruct", min_length=1)
    system: str = Field(default="", max_length=4000)
    seed: int = Field(default=7, ge=0, lt=2**31)
    ingest: IngestConfig
    chunk: ChunkConfig = ChunkConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    curate: CurateConfig = CurateConfig()
    train: TrainConfig = TrainConfig()
    merge: MergeConfig = MergeConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    verify: VerifyConfig = VerifyConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Return the recipe in a file after applying `key.path=value` overrides.

    Paths in the file are relative to the file, paths in overrides to the current folder, and `~` is the user's own. A
    section without keys counts as left out.

    Raises:
        RecipeError: the file cannot be read, or it or the overrides hold faults: all are listed with their
            key path.
    """
    subject = f"Recipe {str(path)!r}"
    tree = _read_yaml(path, subject)
    _resolve_paths(tree, path.parent)
    faults = [fault for override in overrides or [] if (fault := _apply_override(tree, override))]
    _resolve_paths(tree, Path())  # those of overrides
    faults += _unusable_texts(tree)
    given = {key: value for key, value in tree.items() if value is not None}
    try:
        recipe = Recipe.model_validate(given)
    except ValidationError as error:
        faults += [_explain(fault) for fault in error.errors(include_url=False)]
    if len(faults) > MAX_FAULTS:
        faults[MAX_FAULTS:] = [f"and {len(faults) - MAX_FAULTS} more"]
    if faults:
        raise RecipeError(subject, faults)
    return recipe


def recipe_schema() -> str:
    """Return the JSON schema of a recipe, indented."""
    return json.dumps(Recipe.model_json_schema(), indent=2, sort_keys=True) + "\n"


class _PlainComposer(Composer):
    """Refuses what lets a short file mean a huge one: aliases, and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if isinstance(event, AliasEvent):
            raise ComposerError(
                None,
                None,
                f"recipes have no aliases (*{event.anchor}): write the value out",
                event.start_mark,
            )
        self.warn_double_anchors = False  # without aliases no anchor means anything
        if self.depth == MAX_DEPTH:
            raise ComposerError(None, None, f"more than {MAX_DEPTH} levels deep", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _parse(text: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _PlainComposer
    return yaml.load(io.StringIO(text))


def _read_yaml(path: Path, subject: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)
        if len(data) > MAX_RECIPE_BYTES:
            raise RecipeError(subject, [f"is larger than {MAX_RECIPE_BYTES:,} bytes: is it a recipe?"])
        tree = _parse(data.decode("utf-8-sig"))
    except RecipeError:
        raise
    except OSError as error:
        raise RecipeError(subject, [f"cannot be read: {error.strerror}; name a .yaml file"]) from error
    except UnicodeDecodeError as error:
        raise RecipeError(subject, [f"is not UTF-8 text (byte {error.start}): save it as UTF-8"]) from error
    except YAML_FAULTS as error:
        raise RecipeError(subject, [f"is not valid YAML: {_first_line(error)}"]) from error
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else _shorten(tree)
        raise RecipeError(subject, [f"holds {found}, not sections of `key: value`"])
    return tree


def _first_line(error: Exception) -> str:
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    problem = _cut(str(problem).split("\n")[0], 200)
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def _resolve_paths(tree: dict[str, Any], folder: Path) -> None:
    for *sections, key in PATH_KEYS:
        node = _section(tree, sections)
        if isinstance(node.get(key), str):
            node[key] = str(folder / os.path.expanduser(node[key]))


def _unusable_texts(node: Any, where: str = "") -> list[str]:
    """Return a fault for each text that holds a NUL or half a character: no file can."""
    if isinstance(node, str):
        usable = "\0" not in node and is_unicode(node)
        return (
            []
            if usable
            else [f"{where}: {_shorten(node)} holds a character that text cannot have: take it out"]
        )
    children: Any = (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    )
    prefix = f"{where}." if where else ""
    return [fault for key, child in children for fault in _unusable_texts(child, f"{prefix}{_readable(key)}")]


def _section(tree: dict[str, Any], sections: list[str]) -> dict[str, Any]:
    node: Any = tree
    for section in sections:
        node = node.get(section) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _apply_override(tree: dict[str, Any], override: str) -> str | None:
    """Set one key; returns what is wrong with the override, if anything is."""
    key, equals, text = override.partition("=")
    *sections, last = keys = key.strip().split(".")
    if not equals or not all(keys):
        return f"--set {_shorten(override)}: is not `key.path=value`, like train.rank=32"
    try:
        value = _parse(text)
    except YAML_FAULTS as error:
        return f"--set {_shorten(override)}: its value is not valid YAML: {_first_line(error)}"
    node = tree
    for section in sections:
        if node.get(section) is None:
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            return f"--set {_shorten(override)}: {section!r} is a value, not a section"
    node[last] = value
    return None


def _explain(fault: Any) -> str:
    where = ".".join(_readable(part) for part in fault["loc"]) or "recipe"
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggest(fault['loc'])}"
    if fault["type"] == "value_error":  # a sentence of our own, which names what is wrong
        return f"{where}: {fault['ctx']['error']}"
    if fault["type"] == "model_type" and (section := _model_at(fault["loc"])):
        known = _cut(", ".join(section.model_fields), 100)
        return f"{where}: is a section with keys of its own ({known}), not {_shorten(fault['input'])}"
    if fault["type"] == "string_pattern_mismatch" and where == "name":
        return f"{where}: {NAME_RULE}, not {_shorten(fault['input'])}"
    given = "" if fault["type"] == "missing" else f", not {_shorten(fault['input'])}"
    return f"{where}: {fault['msg']}{given}"


def _readable(key: Any) -> str:
    text = str(key) if isinstance(key, str | int) and not isinstance(key, bool) else repr(key)
    return _cut(text if text.isprintable() else ascii(text), 100)


def _suggest(location: tuple[str | int, ...]) -> str:
    model = _model_at(location[:-1])
    known = list(model.model_fields) if model else []
    close = difflib.get_close_matches(str(location[-1])[:64], known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed here: {', '.join(known)}" if known else ""


def _model_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the section at a key path, if there is one."""
    model: type[BaseModel] | None = Recipe
    for part in location:
        field = model.model_fields.get(str(part)) if model else None
        model = _model_of(field.annotation) if field else None
    return model


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, also an optional one."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _shorten(value: Any) -> str:
    if isinstance(value, dict):
        return f"a section of {len(value)} key(s)"
    if isinstance(value, list | tuple | set):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of that size"
    return _cut(repr(value), 60)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
