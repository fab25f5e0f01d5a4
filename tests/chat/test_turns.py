"""Chat templates as marks and as Go text, against the Jinja templates of real model families."""

from pathlib import Path

import pytest

from factory.chat.turns import FIXTURES, PADDED_FIXTURES, derive, jinja_renderer, template_of
from factory.errors import ExportError
from tests.bundle.go_template import render_go

CHATML = Path("factory/chat/templates/chatml.jinja").read_text(encoding="utf-8")
TEMPLATES = Path(__file__).parent / "templates"
SMOLLM2, LLAMA3, PHI3, GEMMA = (
    (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    for name in ("smollm2", "llama3", "phi3", "gemma")
)
FAMILIES = {
    "chatml": (CHATML, "<|im_start|>", ["<|im_start|>", "<|im_end|>"]),
    "smollm2": (SMOLLM2, "<|im_start|>", ["<|im_start|>", "<|im_end|>"]),
    "llama3": (LLAMA3, "<|begin_of_text|>", ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "phi3": (PHI3, "<s>", ["<|system|>", "<|end|>", "<|user|>", "<|assistant|>"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_go_template_gives_the_prompt_of_the_jinja_template(family):
    source, bos, stops = FAMILIES[family]
    template = derive(source, bos)
    jinja = jinja_renderer(source, bos_token=bos)
    checked = 0
    for turns in FIXTURES if template.trims else FIXTURES + PADDED_FIXTURES:
        expected = jinja(turns).removeprefix(template.opening)
        assert render_go(template.as_go(), turns) == expected
        checked += 1
    assert checked >= 6
    assert template.stop_markers([]) == stops
    assert (
        template.stop_markers(["<|endoftext|>", "<s>", "<|end|>" if family == "phi3" else "<|im_end|>"])
        == stops
    )


def test_plain_chatml_is_word_for_word_the_template_ollama_curates():
    go = derive(CHATML, "<|im_start|>").as_go()
    assert go == (
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    )
    curated = (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
        + "<|im_start|>assistant\n"
    )
    assert all(render_go(go, turns) == render_go(curated, turns) for turns in FIXTURES + PADDED_FIXTURES)


def test_a_default_system_turn_is_kept_and_only_used_without_a_system_turn():
    template = derive(SMOLLM2, "<|im_start|>")
    assert template.default_turn.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert "SmolLM" in render_go(template.as_go(), FIXTURES[0])
    assert "SmolLM" not in render_go(template.as_go(), FIXTURES[1])


def test_the_opening_token_is_left_to_the_runtime_and_trimming_is_noted():
    template = derive(LLAMA3, "<|begin_of_text|>")
    assert template.opening == "<|begin_of_text|>"
    assert "<|begin_of_text|>" not in template.as_go()
    assert template.trims


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (GEMMA, "System role not supported"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "leaves out or reorders"),
        (
            CHATML.replace("message['content']", "message['content'] | replace('Ada', 'Eva')"),
            "fixed marks give",
        ),
        ("{% for message in messages %}", "not valid Jinja"),
        (CHATML + "{{ strftime_now('%Y') }}", "cannot render"),
        ("{{ messages.__class__.__mro__ }}" + CHATML, "cannot render"),
    ],
)
def test_templates_that_are_not_turnwise_are_refused_with_a_reason(source, reason):
    with pytest.raises(ExportError, match=reason):
        derive(source, "<|im_start|>")


def test_a_template_without_an_end_token_is_refused():
    source = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(ExportError, match="never stop"):
        derive(source).stop_markers(["<|endoftext|>"])


def test_the_closing_token_ends_turns_where_a_template_writes_it():
    source = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    source += "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    template = derive(source, "<s>", "</s>")
    assert template.assistant == ("<|assistant|>\n", "</s>\n")
    assert "</s>" in template.stop_markers(["<s>", "</s>"])
    with pytest.raises(ExportError, match="never stop"):
        derive(source, "<s>").stop_markers(["<s>", "</s>"])


def test_a_closing_token_after_the_whole_conversation_is_no_mark_of_a_turn():
    whole = CHATML.replace(
        "{% endfor %}", "{% endfor %}{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    )
    assert derive(whole, "<|im_start|>", "<|endoftext|>") == derive(CHATML, "<|im_start|>")


def test_marks_that_a_modelfile_cannot_hold_are_refused():
    with pytest.raises(ExportError, match="Modelfile cannot hold"):
        derive(CHATML.replace("<|im_end|>", '<|im_end|>"""'), "").as_go()


def test_template_of_prefers_the_file_and_names_a_missing_one():
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    assert template_of({"chat_template": "a", **tokens}, "b") == ("b", "<s>", "</s>")
    assert template_of({"chat_template": "a"}, None) == ("a", "", "")
    with pytest.raises(ExportError, match="no chat template"):
        template_of({}, None)
