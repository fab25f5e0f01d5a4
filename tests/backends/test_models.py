"""Any MODEL argument: told from what lies there, opened, and asked with the text it was trained with."""

import json
from pathlib import Path

import pytest

from factory.backends.models import ModelReference, open_model, resolve
from factory.errors import UsageError
from factory.weights import base as bases
from tests.tiny import TINY_NAME, TINY_ROWS, make_tiny_adapter, make_tiny_base

QUESTIONS = [question for question, _ in TINY_ROWS]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_tiny_adapter(base, base.parent / "adapter", steps=60)


@pytest.fixture
def known_base(base: Path, monkeypatch) -> Path:
    made = bases.Base(TINY_NAME, "0" * 64, "apache-2.0", "test", base)
    monkeypatch.setattr(bases, "open_base", lambda name: {TINY_NAME: made}[name])
    return base


def test_a_model_is_told_from_what_lies_there(base: Path, adapter: Path) -> None:
    file = base / "base-F16.gguf"
    assert resolve(str(file)) == ModelReference("gguf", "base-F16.gguf", file)
    assert resolve(str(adapter)) == ModelReference("adapter", "adapter", adapter, TINY_NAME)
    assert resolve(str(base)) == ModelReference("merged", "base", base)
    assert resolve("smollm2-135m-instruct") == ModelReference(
        "base", "smollm2-135m-instruct", None, "smollm2-135m-instruct"
    )
    assert resolve("Qwen/Qwen3-0.6B").kind == "base"


def test_a_bundle_gives_its_file_and_its_system_text(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "b"}')
    (tmp_path / "model-Q8_0.gguf").touch()
    (tmp_path / "manifest.json").write_text(
        json.dumps({"default_file": "model-Q8_0.gguf", "system": "Be short."})
    )
    assert resolve(str(tmp_path)) == ModelReference(
        "gguf", "model-Q8_0.gguf", tmp_path / "model-Q8_0.gguf", system="Be short."
    )
    assert resolve(str(tmp_path / "model-Q8_0.gguf")).system == "Be short."
    assert resolve(str(tmp_path / "adapter")).system == "Be short."


@pytest.mark.parametrize("name", [".", "./nothing", "/no/such/model", "model.gguf", "a/b/c"])
def test_what_is_no_model_is_refused(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        resolve(name)


def test_base_merged_and_file_answer_alike_and_the_adapter_what_it_learned(
    known_base: Path, adapter: Path
) -> None:
    def answers(reference: ModelReference) -> list[str]:
        with open_model(reference) as model:
            return model.answer(QUESTIONS, 12)

    by_name = answers(ModelReference("base", TINY_NAME, None, TINY_NAME))
    assert answers(ModelReference("merged", "base", known_base)) == by_name
    assert answers(resolve(str(adapter))) == [answer for _, answer in TINY_ROWS] != by_name
    from_file = answers(resolve(str(known_base / "base-F16.gguf")))
    assert sum(one == other for one, other in zip(from_file, by_name, strict=True)) >= 3


def test_the_system_text_of_the_call_comes_before_that_of_the_bundle(known_base: Path) -> None:
    reference = ModelReference(
        "base", TINY_NAME, None, TINY_NAME, system="The code is 4711; the lamp is green."
    )
    with open_model(reference) as own, open_model(reference, "") as none:
        assert own.answer(QUESTIONS, 12) != none.answer(QUESTIONS, 12)


def test_answers_come_in_the_order_of_the_questions(known_base: Path, adapter: Path) -> None:
    with open_model(resolve(str(adapter))) as model:
        one_by_one = [model.answer([question], 12)[0] for question in QUESTIONS]
        assert model.answer(QUESTIONS[::-1], 12) == one_by_one[::-1]
        assert model.answer([], 12) == []
