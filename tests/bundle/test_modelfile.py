"""A Modelfile's own rules: how values are written, which texts it cannot hold, and what trimming is worth a word."""

import pytest

from factory.bundle.manifest import BaseIdentity, Sampling
from factory.bundle.modelfile import check_model_name, modelfile, ollama_settings, suggest_model_name
from factory.chat.turns import derive
from factory.errors import ExportError, UsageError
from tests.bundle.manifests import make_manifest
from tests.chat.test_turns import CHATML, LLAMA3, SMOLLM2

TEMPLATE = derive(CHATML, "<|im_start|>")


def sampling(**changes):
    fields = {"num_ctx": 4096, "num_predict": 256, "temperature": 0.0, "stop": ("<|im_end|>",)}
    return Sampling(**fields | changes)


def parameters(text):
    return [line.split(" ", 2)[1:] for line in text.splitlines() if line.startswith("PARAMETER ")]


def test_every_stop_has_a_line_and_numbers_are_written_short():
    text = modelfile(make_manifest(sampling=sampling(temperature=0.70, stop=("<|a|>", "<|b|>"))), TEMPLATE)
    assert parameters(text) == [
        ["stop", '"<|a|>"'], ["stop", '"<|b|>"'], ["num_ctx", "4096"], ["num_predict", "256"],
        ["temperature", "0.7"], ["repeat_penalty", "1"],
    ]  # fmt: skip
    greedy = modelfile(make_manifest(sampling=sampling(stop=())), TEMPLATE)
    assert parameters(greedy) == [
        ["num_ctx", "4096"], ["num_predict", "256"], ["temperature", "0"], ["repeat_penalty", "1"]
    ]  # fmt: skip


def test_a_stop_mark_with_a_double_quote_stands_in_three_or_is_refused():
    text = modelfile(make_manifest(sampling=sampling(stop=('""a" b',))), TEMPLATE)
    assert parameters(text)[0] == ["stop", '"""""a" b"""']
    for mark in ('"', 'a"', 'a"""b'):
        with pytest.raises(ExportError, match=r"^The stop mark holds three double quotes or ends with one"):
            modelfile(make_manifest(sampling=sampling(stop=(mark,))), TEMPLATE)


def test_a_template_that_trims_gets_a_remark_and_another_none():
    trimming = modelfile(make_manifest(), derive(LLAMA3, "<|begin_of_text|>"))
    remarks = [line for line in trimming.splitlines() if line.startswith("#")]
    assert remarks == [
        "# The training template also cuts white space off the ends of messages; Ollama does not."
    ]
    assert trimming.index("TEMPLATE") < trimming.index(remarks[0]) < trimming.index("SYSTEM")
    assert "\n#" not in modelfile(make_manifest(), TEMPLATE)


def test_a_default_system_turn_is_left_to_the_template_while_an_empty_system_text_adds_none():
    text = modelfile(make_manifest(), derive(SMOLLM2, "<|im_start|>"))
    assert text.count("named SmolLM") == 1
    assert text.startswith('FROM ./model-Q8_0.gguf\nTEMPLATE """{{ if not .System }}<|im_start|>system\n')
    assert '\nSYSTEM """"""\n' in text


@pytest.mark.parametrize("system", ['Say "yes"', '"', 'one """two""" three', '"""'])
def test_a_system_text_that_a_modelfile_cannot_hold_is_refused_with_its_end(system):
    with pytest.raises(
        ExportError, match=r"The system text of the recipe holds three double quotes"
    ) as refused:
        modelfile(make_manifest(system="x" * 100 + system), TEMPLATE)
    assert repr(("x" * 100 + system)[-60:]) in str(refused.value)
    assert "x" * 61 not in str(refused.value)


@pytest.mark.parametrize("system", ['"Yes" is an answer.', 'Say ""yes"", always.', "Two\n\nlines '''"])
def test_other_quotes_and_lines_are_held_as_they_are(system):
    assert f'\nSYSTEM """{system}"""\n' in modelfile(make_manifest(system=system), TEMPLATE)


def test_the_licence_names_the_base_and_is_checked_like_any_text():
    def licensed(licence):
        return make_manifest(base=BaseIdentity(name="b", sha256="7" * 64, licence=licence, source="s"))

    settings = ollama_settings(licensed("mit"), TEMPLATE)
    assert settings.licence == "The base model b is licensed under mit."
    with pytest.raises(ExportError, match=r"^The licence holds three double quotes"):
        modelfile(licensed('"""mit'), TEMPLATE)


def test_a_file_is_named_after_the_bundle_and_its_type():
    manifest = make_manifest(name="tolvane", default_file="model-Q4_K_M.gguf")
    files = ("model-Q4_K_M.gguf", "model-F16.gguf", "helpdesk.gguf", None)
    names = [suggest_model_name(manifest, file) for file in files]
    assert names == ["tolvane", "tolvane:f16", "tolvane:helpdesk", "tolvane"]
    for name in names:
        check_model_name(name)


def test_each_part_of_a_name_has_eighty_characters_at_most():
    check_model_name(f"{'a' * 80}/{'b' * 80}:{'c' * 80}")
    for name in (f"{'a' * 81}/b", f"a/{'b' * 81}", f"a/b:{'c' * 81}"):
        with pytest.raises(UsageError, match="write it like acme/hr:q4"):
            check_model_name(name)
