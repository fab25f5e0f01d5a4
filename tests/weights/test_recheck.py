"""A bundle's files are held against the adapter beside them: sound ones pass, and each fault is named with its file."""

import shutil

import gguf
import pytest

from factory import hardware, store
from factory.errors import BaseModelError
from factory.weights.base import open_base
from factory.weights.recheck import recheck
from tests.tiny import TINY_ROWS, make_tiny_adapter, rewrite_gguf

QUESTIONS = [question for question, _ in TINY_ROWS]


@pytest.fixture(scope="module")
def base(tiny_base, tmp_path_factory):
    """A base in a cache of its own, prepared from a GGUF file; what is computed is computed by one thread."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(tiny_base / "base-F16.gguf", folder / "clock-chat.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(store.CACHE_VARIABLE, str(folder / "cache"))
        patch.setattr(hardware, "num_cores", lambda: 1)
        patch.chdir(folder)
        yield open_base("clock-chat.gguf")


@pytest.fixture(scope="module")
def nothing(base, tmp_path_factory):
    """An adapter of zeros, of which the base's own file is the merged model."""
    return make_tiny_adapter(base.folder, tmp_path_factory.mktemp("nothing"), strength=0)


@pytest.fixture
def check(base, nothing, tmp_path):
    """Return a function that rechecks files of a bundle."""

    def run(*files, adapter=nothing, sha256=base.sha256):
        shutil.copytree(adapter, tmp_path / "adapter")
        return recheck(tmp_path, base.name, sha256, list(files), QUESTIONS, "Be brief.")

    return run


def test_files_that_say_what_the_adapter_says_are_sound(check, base, tmp_path):
    files = ("model-Q8_0.gguf", "model-F16.gguf")
    for name in files:
        shutil.copy(base.gguf, tmp_path / name)
    assert check(*files) == []


def test_another_template_and_other_token_ids_are_named_with_the_file(check, base, tmp_path):
    merges = gguf.GGUFReader(base.gguf).get_field("tokenizer.ggml.merges").contents()
    rewrite_gguf(base.gguf, tmp_path / "model-A.gguf", keys={"tokenizer.chat_template": "{{ messages }}"})
    rewrite_gguf(base.gguf, tmp_path / "model-B.gguf", keys={"tokenizer.ggml.merges": merges[:20]})
    shutil.copy(base.gguf, tmp_path / "model-C.gguf")
    first, second = check("model-A.gguf", "model-B.gguf", "model-C.gguf")
    assert first == "model-A.gguf: its chat template is not the base's"
    assert second.startswith("model-B.gguf: ")
    assert second.endswith(" texts have other token ids than the base's tokenizer gives")


def test_a_file_without_the_adapter_in_it_diverges_beyond_the_limit_of_its_type(check, base, tmp_path):
    strong = make_tiny_adapter(base.folder, tmp_path / "strong", strength=0.5)
    for name in ("model-Q8_0.gguf", "model-Q4_K_M.gguf"):
        shutil.copy(base.gguf, tmp_path / name)
    eight, four = check("model-Q8_0.gguf", "model-Q4_K_M.gguf", adapter=strong)
    assert eight.endswith(" nats a token, limit 0.02")
    assert four.endswith(" nats a token, limit 0.1")
    said = [line.split(" diverges from the adapter by ")[1].split()[0] for line in (eight, four)]
    assert said[0] == said[1], "the files are the same"
    assert float(said[0]) > 0.1


def test_another_base_of_that_name_is_refused(check):
    with pytest.raises(BaseModelError, match="has other files than the one that is meant"):
        check(sha256="0" * 64)
