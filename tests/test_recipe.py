"""Recipes: every fault named at once, overrides, paths, the schema, and thousands of broken files."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from factory.cli import main
from factory.errors import RecipeError
from factory.recipe import MAX_RECIPE_BYTES, Recipe, load_recipe, recipe_schema
from tests.outside import Outside

ROOT = Path(__file__).parent.parent

RECIPES = sorted(Path("recipes").glob("*.yaml"))
SMALL = "name: tiny\ningest:\n  source: docs\n"


def write(folder, text, name="tiny.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def faults(folder, text, overrides=None):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    return caught.value.faults


def test_a_small_recipe_gets_every_default(tmp_path):
    recipe = load_recipe(write(tmp_path, SMALL))
    assert (recipe.name, recipe.base, recipe.seed) == ("tiny", "smollm2-135m-instruct", 7)
    assert recipe.train.rank == 32
    assert recipe.evaluate.questions is None


def test_all_faults_are_listed_with_their_key_path_and_what_would_be_right(tmp_path):
    text = "name: Tiny!\ntrian: {}\ningest:\n  sourc: docs\ntrain:\n  rank: 0\n  precision: float8\n  epochs: many\n"
    found = "\n".join(faults(tmp_path, text))
    assert len(found.splitlines()) == 7
    assert "name: has lower-case letters, digits, '.', '_' and '-'" in found
    assert "not 'Tiny!'" in found
    assert "trian: unknown key; did you mean 'train'?" in found
    assert "ingest.source: Field required" in found
    assert "ingest.sourc: unknown key; did you mean 'source'?" in found
    assert "train.rank: Input should be greater than or equal to 1, not 0" in found
    assert (
        "train.precision: Input should be 'auto', 'float32', 'bfloat16' or 'float16', not 'float8'" in found
    )
    assert "train.epochs: Input should be a valid integer" in found


def test_an_unknown_key_that_resembles_none_lists_the_allowed_ones(tmp_path):
    (fault,) = faults(tmp_path, SMALL + "merge:\n  zzz: 1\n")
    assert fault == "merge.zzz: unknown key; allowed here: dtype"


def test_keys_of_an_optional_section_are_suggested_too(tmp_path):
    text = SMALL + "synthesize:\n  teacher:\n    gguff: x.gguf\n    url: http://localhost\n"
    assert faults(tmp_path, text) == ["synthesize.teacher.gguff: unknown key; did you mean 'gguf'?"]


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"init": "loftq"}, "init loftq makes up for what 4 bits lose: set quantization to nf4"),
        (
            {"init": "pissa", "quantization": "nf4"},
            "init pissa takes whole weights apart: set quantization to none, or init to loftq",
        ),
        (
            {"init": "loftq", "quantization": "nf4", "variant": "dora"},
            "init loftq and variant dora exclude each other: leave one out",
        ),
        ({"layers": "[1]", "first_layer": 0.5}, "layers and first_layer both choose layers: leave one out"),
        ({"layers": "[]"}, "layers is empty: name a layer, or leave it out"),
        (
            {"target_parameters": "[x]", "variant": "dora", "init": "eva", "dropout": 0.1},
            "target_parameters have no variant dora: set it to lora or rslora; target_parameters begin as by "
            "default: leave init out; target_parameters have no dropout: set it to 0",
        ),
        ({"continue_from": "x", "init": "eva"}, "continue_from brings its own A and B: leave init out"),
        ({"rank_pattern": "{'(': 4}"}, "pattern '(' is no regular expression: correct it"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_methods_that_do_not_go_together_are_said_in_a_line(tmp_path, keys, fault):
    assert faults(tmp_path, SMALL, [f"train.{key}={value}" for key, value in keys.items()]) == [
        f"train: {fault}"
    ]


def test_methods_that_go_together_are_taken(tmp_path):
    overrides = [
        "train.quantization=nf4",
        "train.init=loftq",
        "train.variant=rslora",
        "train.layers=[0, 2]",
        "train.rank_pattern={'layers.[0-3].*': 4}",
        "train.lora_plus=16",
    ]
    train = load_recipe(write(tmp_path, SMALL + "train: {continue_from: old}\n"), overrides[2:]).train
    assert (train.layers, train.rank_pattern, train.lora_plus) == ((0, 2), {"layers.[0-3].*": 4}, 16.0)
    assert train.continue_from == tmp_path / "old"
    assert load_recipe(write(tmp_path, SMALL), overrides).train.init == "loftq"


def test_a_teacher_is_a_file_or_an_endpoint(tmp_path):
    (fault,) = faults(tmp_path, SMALL + "synthesize:\n  teacher: {rewordings: 2}\n")
    assert "name either gguf (a file) or url (an endpoint)" in fault


def test_an_empty_section_counts_as_left_out(tmp_path):
    assert load_recipe(write(tmp_path, SMALL + "train:\n  # rank: 64\n")).train.rank == 32
    assert faults(tmp_path, "name: tiny\ningest:\n") == ["ingest: Field required"]


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("5E-05", 5e-5), ("0.001", 1e-3), (".5", 0.5)])
def test_numbers_read_as_numbers(tmp_path, text, value):
    assert (
        load_recipe(write(tmp_path, SMALL + f"train:\n  learning_rate: {text}\n")).train.learning_rate
        == value
    )
    assert load_recipe(write(tmp_path, SMALL), [f"train.learning_rate={text}"]).train.learning_rate == value


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "1e999"])
def test_no_number_may_be_infinite_or_none_at_all(tmp_path, value):
    numbers = {
        f"{name}.{key}".strip(".")
        for name, model in sections()
        for key, field in model.model_fields.items()
        if {int, float} & {field.annotation, *get_args(field.annotation)}
    }
    assert len(numbers) > 40
    found = faults(tmp_path, SMALL, [f"{key}={value}" for key in sorted(numbers)])
    assert {fault.split(":")[0] for fault in found} == numbers


def test_overrides_win_and_keep_their_type(tmp_path):
    given = [
        "train.rank=8",
        "system=Answer briefly.",
        "evaluate.rag=false",
        "quantize.types=[Q8_0]",
        "merge.dtype=float32",
    ]
    recipe = load_recipe(write(tmp_path, SMALL + "train:\n  rank: 64\n  epochs: 2\n"), given)
    assert (recipe.train.rank, recipe.train.epochs, recipe.system) == (8, 2, "Answer briefly.")
    assert (recipe.evaluate.rag, recipe.quantize.types, recipe.merge.dtype) == (False, ("Q8_0",), "float32")


def test_an_override_opens_the_sections_it_needs(tmp_path):
    given = ["synthesize.teacher.url=http://localhost:1", "synthesize.teacher.model=m"]
    recipe = load_recipe(write(tmp_path, SMALL + "synthesize:\n"), given)
    assert recipe.synthesize.teacher.model == "m"


def test_the_last_of_two_overrides_holds(tmp_path):
    assert load_recipe(write(tmp_path, SMALL), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.rank", "is not `key.path=value`"),
        ("=3", "is not `key.path=value`"),
        ("train..rank=3", "is not `key.path=value`"),
        ("train.rank=[", "its value is not valid YAML"),
        ("train.rank=" + "[" * 5000, "its value is not valid YAML"),
        ("train.rank=*x", "its value is not valid YAML"),
        ("name.first=x", "'name' is a value, not a section"),
        ("train.rnk=3", "train.rnk: unknown key; did you mean 'rank'?"),
        ("train.rank=high", "train.rank: Input should be a valid integer"),
        ("train=3", "train: is a section with keys of its own (rank, alpha, "),
        ("synthesize.teacher=x", "synthesize.teacher: is a section with keys of its own (gguf, "),
    ],
)
def test_a_bad_override_is_named(tmp_path, override, message):
    (fault,) = faults(tmp_path, SMALL, [override])
    assert message in fault


def test_faults_of_overrides_and_of_the_file_come_together(tmp_path):
    found = faults(tmp_path, SMALL + "sed: 1\n", ["train.rank", "chunk.max_tokens=[", "seed=-1"])
    assert len(found) == 4


def test_paths_in_the_file_are_relative_to_it_and_overrides_to_here(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = SMALL + (
        "evaluate:\n  questions: ../q.jsonl\nsynthesize:\n  feedback: f.jsonl\n  teacher:\n    gguf: t.gguf\n"
        "train:\n  preferences: p.jsonl\n"
    )
    path = write(tmp_path / "recipes", text)
    recipe = load_recipe(path)
    assert recipe.ingest.source == tmp_path / "recipes" / "docs"
    assert recipe.evaluate.questions.resolve() == tmp_path / "q.jsonl"
    assert recipe.synthesize.teacher.gguf == tmp_path / "recipes" / "t.gguf"
    assert recipe.synthesize.feedback == tmp_path / "recipes" / "f.jsonl"
    assert recipe.train.preferences == tmp_path / "recipes" / "p.jsonl"
    recipe = load_recipe(Path("../recipes/tiny.yaml"), ["ingest.source=mine", "evaluate.questions=/q.jsonl"])
    assert recipe.ingest.source.resolve() == tmp_path / "here" / "mine"
    assert recipe.evaluate.questions == Path("/q.jsonl")


def test_a_tilde_is_the_users_own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = SMALL.replace("source: docs", "source: ~/docs")
    assert text != SMALL
    recipe = load_recipe(
        write(tmp_path, text), ["evaluate.questions=~/q.jsonl", "train.preferences=~nobody-x/p"]
    )
    assert recipe.ingest.source == tmp_path / "home" / "docs"
    assert recipe.evaluate.questions == tmp_path / "home" / "q.jsonl"
    assert recipe.train.preferences == Path("~nobody-x/p")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        (b"", "holds nothing"),
        (b"just words", "holds 'just words', not sections"),
        (b"- a\n- b", "holds a list of 2"),
        (b"a: 1\na: 2", 'line 2, column 1: found duplicate key "a"'),
        (b"a: [1", "is not valid YAML: line 1"),
        (b"a: \x00", "is not valid YAML"),
        (b"a: &x 1\nb: *x", "line 2, column 4: recipes have no aliases (*x): write the value out"),
        (b"[" * 20_000, "more than 32 levels deep"),
        (b"a: !!python/object:os.system x", "is not valid YAML"),
        (b"--- {a: 1}\n--- {b: 2}", "is not valid YAML"),
        (b"#" * (MAX_RECIPE_BYTES + 1), "is larger than 32,768 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_says_why(tmp_path, data, message):
    (fault,) = faults(tmp_path, data)
    assert message in fault


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"No such file or directory; name a \.yaml file"):
        load_recipe(tmp_path / "no.yaml")
    with pytest.raises(RecipeError, match="Is a directory"):
        load_recipe(tmp_path)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    assert load_recipe(write(tmp_path, b"\xef\xbb\xbf" + SMALL.encode())).name == "tiny"


@pytest.mark.parametrize("text", ['"a\\0b"', '"\\ud800"'])
@pytest.mark.parametrize("key", ["system", "base", "ingest.source", "evaluate.questions", "ingest.include"])
def test_text_that_no_file_can_hold_is_refused(tmp_path, key, text):
    value = f"[{text}]" if key == "ingest.include" else text
    found = faults(tmp_path, SMALL, [f"{key}={value}"])
    assert all(fault.startswith(key) for fault in found)
    assert "a character that text cannot have" in found[0]
    str(found).encode()


def test_a_flood_of_faults_is_cut(tmp_path):
    found = faults(tmp_path, SMALL + "".join(f"x{number}: 1\n" for number in range(150)))
    assert len(found) == 101
    assert found[-1] == "and 50 more"


def sections(model: Any = Recipe, name: str = "") -> list[tuple[str, type[BaseModel]]]:
    """Return every configuration class with its key path; the recipe itself comes first."""
    found = [(name, model)]
    for key, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += sections(kind, f"{name}.{key}".strip("."))
    return found


STAGE_KEYS = {name for name, _ in sections() if name}
FIELDS = [(model, key) for _, model in sections() for key in model.model_fields if key not in STAGE_KEYS]


@pytest.mark.parametrize(("model", "key"), FIELDS, ids=[f"{model.__name__}.{key}" for model, key in FIELDS])
def test_every_key_is_explained(model, key):
    text = model.__doc__ if model.__doc__ != BaseModel.__doc__ else ""
    named = re.search(rf"\b{key}\b", text or "")
    in_words = re.search(rf"\b{key.replace('_', ' ')}s?\b", text or "", re.IGNORECASE)
    assert named or in_words or model.model_fields[key].description


@pytest.mark.parametrize(("name", "model"), sections(), ids=[name or "recipe" for name, _ in sections()])
def test_every_section_refuses_unknown_keys_and_cannot_change(name, model):
    assert model.model_config["extra"] == "forbid"
    assert model.model_config["frozen"]


SCHEMA_KEYWORDS = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "exclusiveMaximum",
    "exclusiveMinimum", "format", "items", "maxLength", "maximum", "minLength", "minimum", "pattern", "properties",
    "required", "title", "type",
}  # fmt: skip
TYPES = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
    "null": type(None),
}  # fmt: skip
NUMBERS = {"integer", "number"}


def breaches(schema, value, root, where=""):
    """Return where a value breaks a JSON schema of the keywords above; the schema must use no others."""
    assert set(schema) <= SCHEMA_KEYWORDS, where
    if "$ref" in schema:
        *_, name = schema["$ref"].split("/")
        return breaches(root["$defs"][name], value, root, where)
    if "anyOf" in schema:
        return min((breaches(option, value, root, where) for option in schema["anyOf"]), key=len)
    kind = schema.get("type")
    if (kind and not isinstance(value, TYPES[kind])) or (
        kind in {"integer", "number"} and isinstance(value, bool)
    ):
        return [where]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(where)
    if kind in NUMBERS:
        inside = schema.get("minimum", value) <= value <= schema.get("maximum", value) and schema.get(
            "exclusiveMinimum", value - 1
        ) < value < schema.get("exclusiveMaximum", value + 1)
        found += [] if inside else [where]
    if kind == "string" and not re.search(schema.get("pattern", ""), value):
        found.append(where)
    for number, item in enumerate(value if kind == "array" else []):
        found += breaches(schema.get("items", {}), item, root, f"{where}[{number}]")
    if kind == "object":
        found += [f"{where}.{key}" for key in schema.get("required", []) if key not in value]
        for key, item in value.items():
            known = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            found += [f"{where}.{key}"] if known is False else breaches(known, item, root, f"{where}.{key}")
    return found


def tree_of(path):
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_here_loads_matches_the_schema_and_finds_its_files(path):
    schema = json.loads(recipe_schema())
    assert breaches(schema, tree_of(path), schema) == []
    recipe = load_recipe(path)
    assert recipe.name == path.stem or recipe.name.startswith(path.stem)
    assert recipe.ingest.source.is_dir()
    assert recipe.evaluate.questions is None or recipe.evaluate.questions.is_file()


def test_the_schema_refuses_what_the_recipe_refuses():
    assert len(RECIPES) >= 2
    schema = json.loads(recipe_schema())
    bad = {"name": "X", "ingest": {}, "train": {"rank": 0, "precision": "x", "rnk": 1}, "seed": True}
    assert sorted(breaches(schema, bad, schema)) == [
        ".ingest.source", ".name", ".seed", ".train.precision", ".train.rank", ".train.rnk",
    ]  # fmt: skip


def test_the_schema_names_every_key_and_is_the_same_each_time():
    text = recipe_schema()
    assert text == recipe_schema()
    for model, key in FIELDS:
        assert f'"{key}"' in text, (model, key)


BASE_TEXT = RECIPES[-1].read_text(encoding="utf-8")
NASTY = (
    "\0", "\ud800", "\udfff", "\u2028", "\ufeff", "\t", "\x85", "\x1b[31m", "\U0001f600", "&a ", "*a", "<<: *a",
    "<<: {rank: 1}", "!!binary x", "!!timestamp 9", "!!int ''", "!!float x", "!!set {a}", "!!omap [a: 1]",
    "!!python/name:os.system", "!x ", "? ", "? [a]\n: b", "- ", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! x\n", "|\n",
    ">-\n  ", "'", '"', "\\x", "{", "[", "}", "]", "[[[[", "{a: {b: {c: ", "[" * 3000, "{" * 3000, "- " * 3000,
    "? " * 3000, "9" * 5000, "-9" * 40, "0x" + "f" * 9000, "1e999", "-1e999", ".nan", ".inf", "1e-4", "2001-99-99",
    "2001-01-01T99:00:00Z", "0001-01-01T00:00:00+23:59", "0o17", "1_000", "~", "null", "true", "[]", "{}", '""',
    "name: x\nname: y", "train: &t {rank: 1}", "train: [1, 2]", "ingest: *t", "1: 2", "null: 1", "[a]: 1",
    '"\\0": 1', '"\\ud800": 1', '"\\ud800"', "x" * 6000, "é" * 900, "../../../..", "/dev/zero", "name: " + "a" * 65,
    "synthesize: {teacher: {gguf: 1, url: 2}}", "curate: {personal_data: {email: 1, 2: drop}}",
    "target_modules: [1, [2]]",
)  # fmt: skip


def mutate(rng):
    """Return the bytes of a recipe after one to four changes to characters, lines, values or raw bytes."""
    text = BASE_TEXT if rng.random() < 0.8 else SMALL
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text) + 1)
        match rng.randrange(7):
            case 0:
                text = text[:place] + rng.choice(NASTY) + text[place:]
            case 1:
                text = text[:place] + text[place + rng.randint(1, 20) :]
            case 2:
                text = text[:place] + chr(rng.randrange(0x3000)) + text[place + 1 :]
            case 3:
                lines = text.splitlines(keepends=True)
                rng.shuffle(lines)
                text = "".join(lines)
            case 4:
                text = re.sub(r"(?<=: ).+", lambda _: rng.choice(NASTY), text, count=rng.randint(1, 4))
            case 5:
                text += "\n" + rng.choice(NASTY)
            case 6:
                text = text.replace(
                    rng.choice(["  ", "\n", ":", " "]), rng.choice(["", " ", "\t", ":", "\n"]), 3
                )
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        place = rng.randrange(len(data) + 1)
        data = data[:place] + rng.randbytes(rng.randint(1, 8)) + data[place + rng.randint(0, 3) :]
    return data


def check_mutants(tmp_path, seeds):
    """Load mutants: each is a recipe or a RecipeError, in time, and nothing is written. Returns both numbers."""
    num_valid, messages = 0, []
    for seed in seeds:
        data = mutate(random.Random(seed))
        path = write(tmp_path, data)
        started = time.process_time()
        try:
            load_recipe(path).model_dump_json()
            num_valid += 1
        except RecipeError as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"mutant {seed}: {data!r}") from error
        assert time.process_time() - started < 20, seed
    assert [found.name for found in tmp_path.iterdir()] == ["tiny.yaml"]
    for message in messages:
        message.encode()
        assert max(map(len, message.splitlines())) < 1000
    return num_valid, len(messages)


@pytest.mark.timeout(900)
def test_10_000_broken_recipes_are_refused_or_valid(tmp_path, monkeypatch):
    outside = Outside(tmp_path / "outside", monkeypatch)
    (tmp_path / "recipes").mkdir()
    valid, refused = check_mutants(tmp_path / "recipes", range(10_000))
    assert valid > 200
    assert refused > 6000
    assert outside.written() == []


def check_answer(code, out, err):
    """`recipe check` prints the recipe as JSON, or an error in one line and a line for each fault."""
    if code == 0:
        assert json.loads(out)["name"]
        assert err == ""
        return
    assert (code, out) == (2, "")
    first, *lines = err.removesuffix("\n").split("\n")
    assert re.fullmatch(rf"error: Recipe '.*tiny\.yaml': {len(lines)} fault\(s\)", first), err
    assert lines
    assert all(re.match(r"  \S", line) for line in lines), err


def test_the_command_explains_300_broken_recipes_without_a_traceback(tmp_path, monkeypatch, capsys):
    outside = Outside(tmp_path / "outside", monkeypatch)
    (tmp_path / "recipes").mkdir()
    codes = []
    for seed in range(300):
        path = write(tmp_path / "recipes", mutate(random.Random(seed)))
        monkeypatch.setattr(sys, "argv", ["factory", "recipe", "check", str(path)])
        with pytest.raises(SystemExit) as stop:
            main()
        codes.append(stop.value.code)
        check_answer(codes[-1], *capsys.readouterr())
    assert (codes.count(0) > 5, codes.count(2) > 200) == (True, True)
    assert outside.written() == []


@pytest.mark.parametrize("seed", range(6))
def test_the_command_in_a_process_of_its_own_explains_as_well(tmp_path, monkeypatch, seed):
    outside = Outside(tmp_path / "outside", monkeypatch)
    (tmp_path / "recipes").mkdir()
    path = write(tmp_path / "recipes", mutate(random.Random(seed)))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "factory.cli", "recipe", "check", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    check_answer(done.returncode, done.stdout, done.stderr)
    assert outside.written() == []


BOMBS = {
    "aliases": "a0: &a0 [x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    "duplicates": "a: &a [x]\na: [*a, *a]\n",
    "flow lists": "a: [" + "1," * 16_000 + "]",
    "flow maps": "a: [" + "{}," * 10_000 + "]",
    "block lists": "a:\n" + "- - - -\n" * 3000,
    "open brackets": "[" * 32_000,
    "mixed brackets": "{[a," * 8000,
    "keys": "".join(f"k{number}: v\n" for number in range(3000)),
    "tags": "a: " + "!!str " * 5000,
    "quotes": "a: '" + "'' " * 10_000,
    "unknown names": "target_modules: [" + "[]," * 10_000 + "]",
    "long lists of wrong values": "train: {target_modules: [" + "[]," * 10_000 + "]}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_cost_much(tmp_path, name):
    started = time.process_time()
    found = faults(tmp_path, BOMBS[name])
    assert time.process_time() - started < 20, "a bomb of this kind used to cost minutes"
    assert sum(map(len, found)) < 50_000
