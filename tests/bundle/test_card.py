"""The model card and the README: valid front matter whatever the texts hold."""

import os
import re
import subprocess

import typer.main
from ruamel.yaml import YAML

from factory import cli, store
from factory.bundle.card import Story, model_card
from factory.bundle.manifest import BaseIdentity, BundleFile, Gate
from factory.bundle.readme import readme
from factory.scores import Share
from tests.bundle.manifests import make_manifest
from tests.scored import make_score

STORY = Story(verdict="Nothing was measured.", settings={}, training={}, dataset={}, mixes={})


def _front(card):
    return YAML(typ="safe").load(card.split("---\n", 2)[1])


def test_front_matter_survives_odd_model_names():
    score = make_score(model='a: [b] # "c"', kind="gguf", n=3)
    card = model_card(make_manifest(scores=(score,)), STORY)
    assert (
        _front(card)["model-index"][0]["results"][0]["metrics"][0]["name"] == 'a: [b] # "c", closed book, n=3'
    )


def test_scores_on_different_questions_are_told_apart():
    scores = tuple(
        make_score(question_set=name, accuracy=right, kind=kind)
        for name, right in (("user", 0.1), ("unseen_phrasing", 0.6), ("general", 0.4))
        for kind in ("adapter", "base")
    )
    (model,) = _front(model_card(make_manifest(scores=scores), STORY))["model-index"]
    found = {
        result["dataset"]["name"]: [row["value"] for row in result["metrics"]] for result in model["results"]
    }
    assert found == {
        "the user's own questions": [0.1],
        "trained facts, in a form of question kept out of training": [0.6],
    }


def test_refusals_stand_beside_right_answers():
    share = Share(n=20, share=0.35, low=0.2, high=0.5)
    card = model_card(make_manifest(scores=(make_score(n=80, wrongly_refused=share),)), STORY)
    assert "| adapter | closed book | 80 | 50.0 % | 40.0 to 60.0 % |  | 35.0 % |" in card


def test_a_card_without_scores_has_no_model_index():
    card = model_card(make_manifest(), STORY)
    assert "model-index" not in _front(card)
    assert "Nothing was measured." in card
    assert _front(card)["base_model"] == "smollm2"


def test_a_hub_base_is_linked_and_failed_gates_stand_out():
    base = BaseIdentity(name="qwen3-0.6b", sha256="1" * 64, licence="apache-2.0", source="Qwen/Qwen3-0.6B")
    gate = Gate(name="parity", subject="a|b.gguf", value=0.25, limit=1.0, passed=False)
    card = model_card(make_manifest(base=base, gates=(gate,)), STORY)
    assert _front(card)["base_model"] == "Qwen/Qwen3-0.6B"
    assert "| parity | a\\|b.gguf | 0.25 | 1 | **failed** |" in card


def test_readme_quotes_a_system_text_for_the_shell():
    text = readme(make_manifest(system="Ada's desk.\nBe brief."))
    assert """-sys 'Ada'"'"'s desk.\nBe brief.'""" in text
    assert "> Ada's desk.\n> Be brief." in text
    assert "--lora" not in text


def _with_adapter():
    return make_manifest(files=(BundleFile(path="adapter.gguf", bytes=1, sha256="a" * 64),))


def test_readme_names_only_commands_of_this_project_that_exist():
    text = readme(_with_adapter())
    named = re.findall(r"(?:^|`)factory (\S+)", text, re.MULTILINE)
    assert len(named) >= 3
    assert set(named) <= set(typer.main.get_command(cli.app).commands)
    assert "factory serve ." in text
    assert "factory push-ollama ." in text


def test_readme_finds_the_base_of_the_adapter_in_the_cache(tmp_path, monkeypatch):
    manifest = _with_adapter()
    (quoted,) = re.findall(r"-m (\S+) --lora adapter.gguf", readme(manifest))
    for variable in (store.CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        expected = store.cache_folder() / "bases" / f"smollm2-{'7' * 12}" / "base-F16.gguf"
        said = subprocess.run(["sh", "-c", f"echo {quoted}"], env=os.environ, capture_output=True, text=True)
        assert said.stdout.strip() == str(expected)
        monkeypatch.delenv(variable)
