"""Base models from everywhere: made into a folder once, found again by the name that an adapter keeps of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from factory import store
from factory.backends.models import open_model, resolve
from factory.errors import BaseModelError, MissingExtraError
from factory.weights.base import open_base
from factory.weights.gguf_header import check_gguf_header
from tests.tiny import CHATML, TINY_ROWS, make_tiny_adapter, make_tiny_base

# The real converter refuses a tokenizer it has never seen; this one hands out the file that belongs to the folder.
CONVERTER = """
import shutil, sys
shutil.copy({file!r}, sys.argv[sys.argv.index("--outfile") + 1])
"""
HUB_ID = "tolvane/tiny-chat"
QUESTIONS = [question for question, _ in TINY_ROWS]
LEARNED = [answer for _, answer in TINY_ROWS]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """A cache of base models of the test's own, without a converter, and an empty hub cache."""
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def converter(cache: Path, tiny_base: Path) -> Path:
    script = cache / "converter" / "convert_hf_to_gguf.py"
    script.parent.mkdir(parents=True)
    script.write_text(CONVERTER.format(file=str(tiny_base / "base-F16.gguf")))
    return script


def copy_base(tiny_base: Path, folder: Path) -> Path:
    """Copy what a downloaded model folder holds."""
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("base*"))
    return folder


def train_adapter(base: Path, name: str, folder: Path) -> Path:
    """Train an adapter and let it keep its base's name, as the train stage does."""
    make_tiny_adapter(base, folder, steps=150)
    config = store.read_json(folder / "adapter_config.json")
    store.write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": name})
    return folder


def answers(model: Path) -> list[str]:
    with open_model(resolve(str(model))) as opened:
        return [answer.text for answer in opened.answer(QUESTIONS, 12)]


def hub_copy(tiny_base: Path, commit: str) -> Path:
    """Put a model into the hub's cache as its newest commit."""
    repository = Path(constants.HF_HUB_CACHE) / f"models--{HUB_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return copy_base(tiny_base, repository / "snapshots" / commit)


def test_an_adapter_finds_its_local_folder_base_by_the_name_it_keeps(
    converter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = copy_base(tiny_base, tmp_path / "models" / "clock-chat")
    base = open_base(str(folder))
    assert (base.name, base.source) == ("clock-chat", "clock-chat")
    assert base.gguf.is_file()
    adapter = train_adapter(base.folder, base.name, tmp_path / "adapter")
    assert answers(adapter) == LEARNED
    shutil.rmtree(folder)
    assert answers(adapter) == LEARNED, "the folder it was made from is needed no more"


def test_an_adapter_finds_its_gguf_base_by_the_name_it_keeps(
    cache: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_base / "base-F16.gguf", tmp_path / "clock-chat.gguf")
    base = open_base("clock-chat.gguf")
    assert base.name == "clock-chat"
    assert open_base("clock-chat") == base
    assert answers(train_adapter(base.folder, base.name, tmp_path / "adapter")) == LEARNED


def test_a_prepared_base_is_not_made_again(converter: Path, tiny_base: Path, tmp_path: Path) -> None:
    folder = copy_base(tiny_base, tmp_path / "clock-chat")
    base = open_base(str(folder))
    converter.unlink()
    assert open_base(str(folder)) == open_base("clock-chat") == open_base("clock-chat", base.sha256) == base


def test_two_bases_of_one_name_are_told_apart_by_their_identity(
    converter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    one = open_base(str(copy_base(tiny_base, tmp_path / "a" / "clock-chat")))
    other = open_base(
        str(copy_base(make_tiny_base(tmp_path / "seed1", seed=1), tmp_path / "b" / "clock-chat"))
    )
    assert one.sha256 != other.sha256
    assert open_base("clock-chat", one.sha256) == one
    assert open_base("clock-chat", other.sha256) == other
    with pytest.raises(BaseModelError, match="stands for 2 different models in the cache"):
        open_base("clock-chat")
    with pytest.raises(BaseModelError, match="has other files than the one that is meant"):
        open_base("clock-chat", "0" * 64)


def test_a_hub_base_keeps_its_id_and_is_identified_by_its_commit(converter: Path, tiny_base: Path) -> None:
    copied = hub_copy(tiny_base, "a" * 40)
    base = open_base(HUB_ID)
    assert (base.name, base.source) == ("tolvane--tiny-chat", HUB_ID)
    assert store.read_json(base.folder / "base.json")["source"] == HUB_ID
    hub_copy(tiny_base, "b" * 40)
    assert open_base(HUB_ID).sha256 != base.sha256
    assert open_base(base.name, base.sha256) == base
    shutil.rmtree(copied.parents[1])
    shutil.rmtree(open_base(HUB_ID, base.sha256).folder)
    assert open_base(HUB_ID) == open_base(base.name), "what was prepared is used when the download is gone"


def test_the_missing_converter_is_said_before_anything_is_loaded_or_downloaded(
    cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for name in ("broken", "nobody/nothing", "qwen3-0.6b"):
        with pytest.raises(MissingExtraError, match="needs the converter: python"):
            open_base(name)
    assert not (cache / "bases").exists()


@pytest.mark.parametrize("name", ["nobody", "a/b/c", "./gone", "~/gone", "gone.gguf"])
def test_what_is_no_base_is_refused(converter: Path, name: str) -> None:
    with pytest.raises(BaseModelError, match=r"is not known: use one of smollm2-135m-instruct"):
        open_base(name)


def test_what_lies_there_and_is_no_model_is_refused(converter: Path, tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    with pytest.raises(BaseModelError, match=r"neither a folder with config\.json nor a \.gguf file"):
        open_base("papers")
    (tmp_path / "x.gguf").write_bytes(b"rubbish")
    with pytest.raises(BaseModelError, match=r"'x\.gguf' is not a usable GGUF file"):
        open_base("x.gguf")
    with pytest.raises(BaseModelError, match=r"'nobody/nothing' could not be loaded"):
        open_base("nobody/nothing")


def test_pickled_weights_are_not_read(converter: Path, tiny_base: Path, tmp_path: Path) -> None:
    copy_base(tiny_base, tmp_path / "local")
    (tmp_path / "local" / "model.safetensors").rename(tmp_path / "local" / "pytorch_model.bin")
    hub = hub_copy(tiny_base, "c" * 40)
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    for name in ("local", HUB_ID):
        with pytest.raises(BaseModelError, match="has no weights in safetensors") as caught:
            open_base(name)
        assert "\n" not in str(caught.value)


def _refused(folder: Path, **changed: object) -> str:
    """Return why a base is refused whose tokenizer files say something else, and that nothing is left of it."""
    for name, value in changed.items():
        file = folder / name.replace("_jinja", ".jinja").replace("_json", ".json")
        file.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    with pytest.raises(BaseModelError) as refusal:
        open_base(str(folder))
    assert not list((store.cache_folder() / "bases").iterdir())
    return str(refusal.value)


def test_a_base_whose_file_cuts_text_otherwise_is_refused_before_training(
    converter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = copy_base(tiny_base, tmp_path / "other")
    tokenizer = store.read_json(folder / "tokenizer.json")
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:5]
    said = _refused(folder, tokenizer_json=tokenizer)
    assert "cuts text into other tokens" in said
    assert "such as '<|im_start|>" in said


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}",
            "no system",
        ),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}", "never stop"),
    ],
)
def test_a_base_whose_template_no_runtime_could_follow_is_refused_before_training(
    converter: Path, tiny_base: Path, tmp_path: Path, template: str, reason: str
) -> None:
    folder = copy_base(tiny_base, tmp_path / "other")
    said = _refused(folder, chat_template_jinja=CHATML + template if reason == "no system" else template)
    assert "cannot be served" in said
    assert reason in said


def test_a_sentencepiece_file_is_there_for_the_converter_alone(
    converter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = copy_base(tiny_base, tmp_path / "pieces")
    (folder / "tokenizer.model").write_bytes(b"pieces")
    seen = tmp_path / "seen"
    copied = f"shutil.copy(pathlib.Path(sys.argv[1]) / 'tokenizer.model', {str(seen)!r})\n"
    converter.write_text(converter.read_text() + "import pathlib\n" + copied)
    base = open_base(str(folder))
    assert seen.read_bytes() == b"pieces"
    assert not (base.folder / "tokenizer.model").exists()


def test_a_file_whose_stretched_positions_would_be_lost_is_refused(
    cache: Path, tiny_base: Path, tmp_path: Path, monkeypatch
) -> None:
    file = shutil.copy(tiny_base / "base-F16.gguf", tmp_path / "stretched.gguf")
    header = check_gguf_header(file)
    stretched = replace(
        header, tensors=(*header.tensors, replace(header.tensors[0], name="rope_freqs.weight"))
    )
    monkeypatch.setattr("factory.weights.base.check_gguf_header", lambda path: stretched)
    with pytest.raises(BaseModelError, match="stretches its positions"):
        open_base(str(file))


def test_of_several_templates_by_name_the_default_one_is_taken(
    converter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    folder = copy_base(tiny_base, tmp_path / "several")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ 1 }}")
    base = open_base(str(folder))
    assert (base.folder / "chat_template.jinja").read_text(encoding="utf-8") == CHATML


def test_an_architecture_whose_weights_cannot_be_written_is_refused_before_training(
    cache: Path, tiny_base: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("factory.weights.gguf_names.KNOWN", frozenset({"qwen2"}))
    file = shutil.copy(tiny_base / "base-F16.gguf", tmp_path / "strange.gguf")
    with pytest.raises(BaseModelError, match="cannot be served: Models of the architecture 'llama'"):
        open_base(str(file))
