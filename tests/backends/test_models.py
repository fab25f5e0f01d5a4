"""Any MODEL argument: told from what lies there, opened, and asked with the text it was trained with."""

import json
from pathlib import Path

import pytest
import torch

from factory import artifacts, hardware
from factory.backends.models import ModelReference, base_of, open_model, prepare, resolve
from factory.chat.template import conversation, encode_prompt
from factory.errors import BaseModelError, UsageError
from factory.weights import base as bases
from tests.tiny import (
    CHATML,
    TINY_NAME,
    TINY_ROWS,
    make_tiny_adapter,
    make_tiny_base,
    make_tiny_tokenizer,
    rewrite_gguf,
)

QUESTIONS = [question for question, _ in TINY_ROWS]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setattr(hardware, "num_cores", lambda: 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return make_tiny_adapter(base, base.parent / "adapter", steps=60)


@pytest.fixture
def known_base(base: Path, monkeypatch) -> Path:
    made = bases.Base(TINY_NAME, "0" * 64, "apache-2.0", "test", base)
    monkeypatch.setattr(bases, "open_base", lambda name, sha256=None: {TINY_NAME: made}[name])
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
        json.dumps(
            {
                "default_file": "model-Q8_0.gguf",
                "system": "Be short.",
                "scores": [
                    {"model": "model-Q8_0.gguf", "when_sure": None},
                    {"model": "adapter", "when_sure": {"threshold": -0.1}},
                    {"model": "model-Q8_0.gguf", "when_sure": {"threshold": -0.7}},
                ],
            }
        )
    )
    assert resolve(str(tmp_path)) == ModelReference(
        "gguf", "model-Q8_0.gguf", tmp_path / "model-Q8_0.gguf", system="Be short.", sure_from=-0.7
    )
    assert resolve(str(tmp_path / "model-Q8_0.gguf")).system == "Be short."
    adapter = resolve(str(tmp_path / "adapter"))
    assert (adapter.system, adapter.sure_from) == ("Be short.", -0.1)
    assert base_of(adapter).sure_from is None


def test_a_runs_models_give_the_system_text_they_were_trained_with(tmp_path: Path, monkeypatch) -> None:
    for name, file in (("adapter", "adapter_config.json"), ("merged", "config.json"), ("gguf", "x.gguf")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text('{"base_model_name_or_path": "b"}')
    artifacts.build(
        tmp_path / "adapter",
        kind="adapter",
        code_version=1,
        config={"rank": 8, "system": "Be short."},
        inputs={"base": "7" * 64, "dataset": "d"},
        make=lambda work: (
            (work / "adapter_config.json").write_text('{"base_model_name_or_path": "b"}') and {}
        ),
    )
    adapter = resolve(str(tmp_path / "adapter"))
    assert (adapter.system, adapter.base, adapter.base_sha256) == ("Be short.", "b", "7" * 64)
    assert resolve(str(tmp_path / "merged")).system == "Be short."
    monkeypatch.chdir(tmp_path / "gguf")
    assert resolve("x.gguf").system == "Be short."


def test_a_foreign_adapter_has_no_system_text(base: Path, adapter: Path) -> None:
    found = [resolve(str(model)) for model in (adapter, base, base / "base-F16.gguf")]
    assert [(reference.system, reference.base_sha256) for reference in found] == [("", None)] * 3


def test_the_base_of_an_adapter_is_asked_like_the_adapter() -> None:
    adapter = ModelReference("adapter", "adapter", Path("a"), "b", "Be short.", "7" * 64, Path("bases/b"))
    assert base_of(adapter) == ModelReference("base", "b", None, "b", "Be short.", "7" * 64, Path("bases/b"))


def test_faults_show_when_a_model_is_prepared(known_base: Path, adapter: Path, tmp_path: Path) -> None:
    assert prepare(resolve(str(adapter))).base_folder == known_base
    merged = resolve(str(known_base))
    assert prepare(merged) == merged
    (tmp_path / "x.gguf").write_bytes(b"rubbish")
    with pytest.raises(BaseModelError, match="not a usable GGUF file"):
        prepare(resolve(str(tmp_path / "x.gguf")))


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
            return [answer.text for answer in model.answer(QUESTIONS, 12)]

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


def test_a_file_whose_template_opens_with_a_token_is_asked_with_it(base: Path, tmp_path: Path) -> None:
    template = "{{ bos_token }}" + CHATML
    keys = {"tokenizer.chat_template": template, "tokenizer.ggml.bos_token_id": 0}
    file = rewrite_gguf(base / "base-F16.gguf", tmp_path / "x.gguf", keys=keys)
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = template, "<|endoftext|>"
    prompts = [encode_prompt(tokenizer, conversation(question)) for question in QUESTIONS]
    with open_model(resolve(str(file))) as opened:
        expected = opened._model.generate_batch(prompts, 12)
        said = [answer.text for answer in opened.answer(QUESTIONS, 12)]
        assert said == [opened._model.detokenize(ids).strip() for ids in expected]
    assert {prompt[0] for prompt in prompts} == {0}


def test_answers_come_in_the_order_of_the_questions(known_base: Path, adapter: Path) -> None:
    with open_model(resolve(str(adapter))) as model:
        one_by_one = [model.answer([question], 12)[0] for question in QUESTIONS]
        assert model.answer(QUESTIONS[::-1], 12) == one_by_one[::-1]
        assert model.answer([], 12) == []
