"""A bundle's README: a shell reads its commands as they are meant, and it names what is there and nothing else."""

import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from factory.bundle.manifest import BaseIdentity, BundleFile, Sampling
from factory.bundle.readme import readme
from tests.bundle.manifests import make_manifest

FILES = (
    "MODEL_CARD.md", "Modelfile", "adapter.gguf", "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors", "model-Q4_K_M.gguf", "model-Q8_0.gguf",
)  # fmt: skip


def readme_of(files=FILES, **changes):
    listed = tuple(BundleFile(path=path, bytes=1, sha256="a" * 64) for path in files)
    return readme(make_manifest(files=listed, **changes))


def commands(text, program):
    """Return the words of each command of a program, as a shell reads them; a system text may hold lines."""
    blocks = [block for _, block in re.findall(r"^(`{3,})bash\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)]
    starts = rf"^(?={program} )"
    parts = [part for block in blocks for part in re.split(r"^(?=[a-z_]+[- ])", block, flags=re.MULTILINE)]
    return [shlex.split(part) for part in parts if re.match(starts, part)]


def test_each_model_file_and_the_adapter_are_explained_and_nothing_else_is():
    lines = [line for line in readme_of().splitlines() if line.startswith("- `")]
    assert lines == [
        "- `adapter.gguf`: the adapter alone, for llama.cpp on top of the base",
        "- `adapter/adapter_model.safetensors`: the adapter for PEFT: the master copy",
        "- `model-Q4_K_M.gguf`: the model in another size",
        "- `model-Q8_0.gguf`: the model; the Modelfile and the commands below use it",
    ]


def test_commands_carry_the_bundles_own_limits():
    sampling = Sampling(num_ctx=2048, num_predict=99, temperature=0.25, stop=())
    text = readme_of(sampling=sampling, default_file="model-Q4_K_M.gguf", name="acme-hr")
    limits = ["-c", "2048", "-n", "99", "--temp", "0.25"]
    assert commands(text, "llama-server") == [
        ["llama-server", "-m", "model-Q4_K_M.gguf", *limits, "--host", "127.0.0.1", "--port", "8080"]
    ]
    assert commands(text, "llama-cli")[0] == ["llama-cli", "-m", "model-Q4_K_M.gguf", *limits]
    assert commands(text, "ollama") == [
        ["ollama", "create", "acme-hr", "-f", "Modelfile"], ["ollama", "run", "acme-hr", "your question"]
    ]  # fmt: skip
    assert commands(text, "lms") == [["lms", "import", "--copy", "model-Q4_K_M.gguf"]]
    assert "--temp 0 " in readme_of() + " "


@settings(max_examples=50)
@given(st.text(alphabet="aZ '\"$`\\!;|&#*~{}é", min_size=1, max_size=20))
def test_a_shell_hands_llama_cpp_the_system_text_letter_for_letter(system):
    for words in commands(readme_of(system=system), "llama-cli"):
        assert words[words.index("-sys") + 1 :] == [system]


def test_the_test_questions_are_asked_from_their_folder_with_base_adapter_and_system_text():
    (words,) = commands(readme_of(system="Be brief."), "lm_eval")
    options = dict(zip(words[1::2], words[2::2], strict=False))
    place = (
        "${ADAPTER_FACTORY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/adapter-factory}/bases/smollm2-777777777777"
    )
    assert options["--model_args"] == f"pretrained={place},peft=../adapter"
    assert (options["--tasks"], options["--include_path"]) == ("adapter_factory", ".")
    assert words[-3:] == ["--apply_chat_template", "--system_instruction", "Be brief."]
    assert "cd lm_eval\nlm_eval " in readme_of()
    assert "--system_instruction" not in readme_of()


def test_a_fence_in_the_system_text_ends_no_block_of_commands():
    system = "Answer like this:\n```bash\nls\n```\n````\nBe brief."
    text = readme_of(system=system)
    tokens = MarkdownIt().parse(text)
    blocks = [
        token.content for token in tokens if token.type == "fence" and token.level == 0
    ]  # none of a quote
    assert len(blocks) == 8
    assert [system in shlex.split(block) for block in blocks].count(True) == 3
    assert "lms import --copy model-Q8_0.gguf\n" in blocks


def test_without_a_system_text_none_is_sent_or_mentioned():
    text = readme_of(system="")
    assert "-sys" not in text
    assert "system" not in text


def test_a_system_text_of_several_lines_is_quoted_line_by_line():
    text = readme_of(system="Be brief.\n\nAnswer in German.")
    assert "send it as the first message to `llama-server`:\n\n> Be brief.\n> \n> Answer in German.\n" in text
    assert "Paste the system text above" in text


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("smollm2", "bases/smollm2-777777777777/base-F16.gguf"),
        ("a b", "bases/a b-777777777777/base-F16.gguf"),
    ],
)
def test_the_adapter_alone_is_run_on_the_f16_file_of_its_base_in_the_cache(name, place):
    base = BaseIdentity(name=name, sha256="7" * 64, licence="mit", source="s")
    _, alone = commands(readme_of(base=base), "llama-cli")
    assert alone[1:5] == [
        "-m", "${ADAPTER_FACTORY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/adapter-factory}/" + place,
        "--lora", "adapter.gguf",
    ]  # fmt: skip
    without = readme_of([file for file in FILES if file != "adapter.gguf"], base=base)
    assert len(commands(without, "llama-cli")) == 1
    assert "--lora" not in without
