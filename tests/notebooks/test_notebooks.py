"""The notebooks as text: made from their sources, without outputs, honest about what leaves, and in our words."""

import ast
import json
import os
import re
from pathlib import Path
from typing import get_args

import nbformat
import pytest
import torch
import transformers

from factory.lora import fit
from factory.lora.memory import Load
from factory.lora.setup import outline, setup_of
from factory.recipe import Recipe, load_recipe
from factory.stages.quantize import FileType
from factory.weights.base import REGISTRY
from notebooks import build

ROOT = Path(__file__).parent.parent.parent
NAMES = (
    "01_quickstart",
    "02_your_documents",
    "03_bigger_base_on_a_T4",
    "04_export_to_ollama",
    "05_playground",
)
FIELDS = {
    "01_quickstart": {"epochs", "quantization", "question"},
    "02_your_documents": {"name", "documents", "questions", "base", "epochs", "quantization", "question"},
    "03_bigger_base_on_a_T4": {"documents", "base", "epochs", "base_weights", "quantization", "question"},
    "04_export_to_ollama": {"bundle", "model_name", "ollama_url", "question"},
    "05_playground": {"bundle", "port", "question"},
}
FIELD = re.compile(r"^(\w+) = .*# @param (.+)$", flags=re.MULTILINE)
KEY = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)=")


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_of(name: str) -> list[str]:
    return [cell.source for cell in read(name).cells if cell.cell_type == "code"]


def texts_in(source: str) -> list[str]:
    """Return the texts of a cell; of one with values filled in, what stands before the first of them."""
    found = []
    for node in ast.walk(ast.parse(source)):
        first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            found.append(first.value)
    return found


def is_recipe_key(path: str) -> bool:
    model = Recipe
    for part in path.split("."):
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return False
        model = field.annotation
    return True


def run_cell(source: str) -> dict[str, object]:
    namespace: dict[str, object] = {}
    exec(compile(source, "cell", "exec"), namespace)
    return namespace


def test_there_is_a_notebook_for_each_source():
    assert tuple(path.stem for path in build.sources()) == NAMES
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEveryNotebook:
    def test_it_is_what_its_source_says(self, name):
        made = build.build(ROOT / "notebooks" / f"{name}.py")
        assert (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8") == made, "run `make docs`"

    def test_it_is_valid_without_outputs_and_its_ids_name_its_cells(self, name):
        notebook = read(name)
        nbformat.validate(notebook)
        assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
        assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
        identities = [cell.id for cell in notebook.cells]
        assert len(set(identities)) == len(identities)
        assert identities[:3] == ["intro", "install", "set-up"]
        assert identities[-1] == "download"

    def test_its_first_cell_has_the_badge_the_time_and_what_leaves(self, name):
        first = read(name).cells[0]
        assert first.cell_type == "markdown"
        lines = first.source.splitlines()
        assert f"/github/{build.REPOSITORY}/blob/main/notebooks/{name}.ipynb)" in lines[0]
        assert "**What leaves your computer**" in first.source
        assert "**Time**" in first.source
        assert "is leaving your computer" in " ".join(lines)
        (pointer,) = (line for line in lines if "`REPOSITORY` in `notebooks/build.py`" in line)
        assert build.REPOSITORY in pointer
        assert ("no public repository yet" in pointer) is build.REPOSITORY.startswith("OWNER/")

    def test_only_the_large_base_asks_for_a_gpu(self, name):
        metadata = read(name).metadata
        asks = (metadata.get("accelerator"), metadata["colab"].get("gpuType"))
        assert asks == (("GPU", "T4") if name.startswith("03") else (None, None))

    def test_its_code_is_python_and_makes_no_public_link(self, name):
        cells = code_of(name)
        for source in cells:
            compile(source, name, "exec")  # a line with ! or % is none
        assert not re.search(r"share\s*=\s*True", "\n".join(cells))

    def test_it_has_its_form_fields(self, name):
        fields = {found[0] for source in code_of(name) for found in FIELD.findall(source)}
        assert fields >= FIELDS[name] | {"repository", "use_drive", "disconnect"}

    def test_its_recipe_keys_exist(self, name):
        found = {
            match[1] for source in code_of(name) for text in texts_in(source) if (match := KEY.match(text))
        }
        assert len(found) > 10
        assert {key for key in found if not is_recipe_key(key)} == set()

    def test_the_install_cell_does_nothing_here_and_asks_for_the_repository_on_colab(self, name, monkeypatch):
        install = code_of(name)[0]
        assert "requirements.lock" in install
        monkeypatch.setattr("subprocess.run", None)
        for variable in [key for key in os.environ if "COLAB_" in key]:
            monkeypatch.delenv(variable)
        assert run_cell(install)["ON_COLAB"] is False
        monkeypatch.setenv("COLAB_GPU", "0")
        with pytest.raises(ValueError, match="address of the repository"):
            run_cell(install)


def test_a_fork_builds_with_its_own_name_in_the_step_that_contributing_names():
    said = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "set `REPOSITORY` in `notebooks/build.py`" in said
    source = (ROOT / "notebooks" / "build.py").read_text(encoding="utf-8")
    assert source.count(f'"{build.REPOSITORY}"') == 1
    forked: dict[str, object] = {"__file__": build.__file__, "__name__": "forked"}
    exec(compile(source.replace(f'"{build.REPOSITORY}"', '"someone/their-fork"'), "build", "exec"), forked)
    for path in build.sources():
        made = forked["build"](path)
        assert "colab.research.google.com/github/someone/their-fork/" in made
        assert 'repository = \\"https://github.com/someone/their-fork\\"' in made
        assert build.REPOSITORY not in made
        assert "no public repository" not in made


def test_the_smoke_settings_load():
    (setup,) = (source for source in code_of("01_quickstart") if "SMOKE_SETTINGS = [" in source)
    tree = ast.parse(setup)
    (given,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SMOKE_SETTINGS"
    )
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", given)
    assert (recipe.train.epochs, recipe.quantize.types, recipe.evaluate.questions) == (1, ("Q8_0",), None)


@pytest.mark.parametrize("name", NAMES[:3])
def test_what_a_list_offers_exists(name):
    offers = {
        field: json.loads(re.match(r"\[.*?\]", rule)[0])
        for source in code_of(name)
        for field, rule in FIELD.findall(source)
        if rule.startswith("[")
    }
    types = {word for offer in offers["quantization"] for word in offer.split(", ")}
    assert types <= set(get_args(FileType))
    assert set(offers.get("base", [])) <= set(REGISTRY)


LARGER = {
    "Qwen2.5-3B": transformers.Qwen2Config(
        **{
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
        },
        **{"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "Qwen3-4B": transformers.Qwen3Config(
        **{
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
        },
        **{"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize("name", LARGER)
def test_the_memory_that_larger_bases_are_said_to_need_is_the_planners(name, tmp_path):
    LARGER[name].save_pretrained(tmp_path)
    train = load_recipe(ROOT / "recipes" / "t4-qlora.yaml").train
    setup = setup_of(outline(tmp_path, train), train, "cuda", torch.float16)
    step = fit.training_peak(setup, Load(train.max_tokens, train.max_tokens // 4), 4).total / 2**30
    merged = 6 * setup.shape.parameters / 1e9
    said = " ".join(read("03_bigger_base_on_a_T4").cells[0].source.split())
    assert f"{step:.1f} GiB for {name}" in said
    assert f"{merged:.1f} GB for {name}" in said
    assert merged > 12.7


def test_the_recipe_for_a_t4_loads():
    recipe = load_recipe(ROOT / "recipes" / "t4-qlora.yaml")
    assert recipe.base in REGISTRY
    assert (recipe.train.quantization, recipe.train.precision) == ("nf4", "float16")
    assert recipe.ingest.source.is_dir()
    assert recipe.evaluate.questions.is_file()
