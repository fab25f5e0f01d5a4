"""The chat template: what training encodes is what rendering shows, answers end, and hostile templates are caged."""

import pytest

from factory.chat.template import (
    compile_template,
    conversation,
    encode_example,
    encode_examples,
    encode_file_prompt,
    encode_prompt,
    end_of_turn_id,
    render,
    render_template,
    settle_template,
)
from factory.errors import BaseModelError
from factory.rows import Message
from factory.weights.gguf_model import GgufModel
from tests.tiny import CHATML, make_tiny_base, make_tiny_tokenizer, rewrite_gguf

OPENING = "{{ bos_token }}" + CHATML  # as the templates of Llama 3 and Gemma begin


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def test_many_examples_are_encoded_as_each_alone(tokenizer) -> None:
    asked = [
        conversation("Why?", "Because."),
        conversation("Ole\u0301 or not, said at some length?", "Ol\u00e9", "You are terse."),
        (*conversation("And then?", "This."), *conversation("Then?", "That")),
        conversation("Nothing?", ""),
    ]
    assert encode_examples(tokenizer, asked) == [encode_example(tokenizer, messages) for messages in asked]
    assert [labels[-1] for _, labels in encode_examples(tokenizer, asked)] == [end_of_turn_id(tokenizer)] * 4
    assert encode_examples(tokenizer, []) == []


@pytest.mark.parametrize("system", ["", "You answer shortly."])
@pytest.mark.parametrize("answer", ["4711", "The code is 4711.\nAsk again.", "é 漢 😀", "12 bar"])
def test_an_encoded_example_is_the_rendered_conversation(tokenizer, system: str, answer: str) -> None:
    messages = conversation("What is the code?", answer, system)
    ids, labels = encode_example(tokenizer, messages)
    shown = render(tokenizer, messages, add_generation_prompt=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == shown.removesuffix("\n")
    assert len(ids) == len(labels)
    assert shown.startswith("<|im_start|>system" if system else "<|im_start|>user")


def test_the_prompt_is_a_prefix_and_only_the_answer_and_its_end_carry_labels(tokenizer) -> None:
    messages = conversation("What is the code?", "4711", "Be short.")
    ids, labels = encode_example(tokenizer, messages)
    prompt = encode_prompt(tokenizer, messages[:-1])
    assert ids[: len(prompt)] == prompt
    assert labels[: len(prompt)] == [-100] * len(prompt)
    assert labels[len(prompt) :] == ids[len(prompt) :]
    assert tokenizer.decode(ids[len(prompt) : -1]) == "4711"
    assert ids[-1] == labels[-1] == end_of_turn_id(tokenizer)


def test_only_the_last_answer_of_a_longer_conversation_is_trained(tokenizer) -> None:
    messages = (*conversation("Who keeps the key?", "Ada"), *conversation("Of which door?", "The red one"))
    ids, labels = encode_example(tokenizer, messages)
    trained = [token for token, label in zip(ids, labels, strict=True) if label != -100]
    assert tokenizer.decode(trained) == "The red one<|im_end|>"
    assert tokenizer.decode(ids).count("Ada<|im_end|>") == 1


def test_the_end_of_turn_is_the_templates_own_token(tokenizer) -> None:
    assert (
        end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id
    )


def test_the_end_of_turn_need_not_be_the_end_of_text() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("end", ["", "\\n", " END\\n"])
def test_a_template_that_ends_turns_with_plain_text_is_refused(end: str) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '"
        + end
        + "' }}{% endfor %}"
    )
    with pytest.raises(BaseModelError, match="could not learn to stop"):
        end_of_turn_id(tokenizer)


@pytest.mark.parametrize("system", ["", "Be short."])
def test_a_bare_template_renders_as_the_tokenizer_does(tokenizer, system: str) -> None:
    messages = conversation("What is the code?", system=system)
    assert render_template(CHATML, messages) == render(tokenizer, messages)


@pytest.mark.parametrize(
    "template",
    ["{{ messages.__class__.__mro__ }}", "{% for x in %}", "{{ messages.append(1) }}", "{{ raise_exception('no') }}",
     "{{ ''.__class__.__mro__[1].__subclasses__() }}"],
)  # fmt: skip
def test_a_template_that_reaches_out_or_breaks_is_refused(template: str) -> None:
    with pytest.raises(BaseModelError, match=r"is not valid Jinja|cannot render 1 turn"):
        render_template(template, conversation("Hi"))


@pytest.mark.parametrize(("template", "opening"), [(OPENING, [0]), (CHATML, [])])
def test_a_file_is_asked_with_the_ids_of_its_tokenizer_opening_token_included(
    tmp_path, template: str, opening: list[int]
) -> None:
    keys = {"tokenizer.chat_template": template, "tokenizer.ggml.bos_token_id": 0}
    file = rewrite_gguf(make_tiny_base(tmp_path / "base") / "base-F16.gguf", tmp_path / "x.gguf", keys=keys)
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template, tokenizer.bos_token = template, "<|endoftext|>"
    messages = conversation("What is the code?", system="Be short.")
    with GgufModel(file, threads=1) as model:
        ids = encode_file_prompt(model, messages)
    assert ids == encode_prompt(tokenizer, messages)
    assert ids[: len(opening) + 1] == [*opening, 1]


def test_templates_may_leave_loops_and_write_json() -> None:
    source = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
    )
    assert (
        compile_template(source)([{"role": "user", "content": "é"}] * 2) == '{"role": "user", "content": "é"}'
    )


def test_a_conversation_has_a_system_turn_only_when_there_is_a_text() -> None:
    assert conversation("Q") == (Message(role="user", content="Q"),)
    assert [message.role for message in conversation("Q", "A", "S")] == ["system", "user", "assistant"]
    assert conversation("Q", "")[-1] == Message(role="assistant", content="")


THINKING = CHATML + (
    "{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}{{- 'Today is ' + date_string + '.\\n' }}" + CHATML
)


@pytest.mark.parametrize(
    ("source", "beginning", "end"),
    [
        (THINKING, "<|im_start|>user\nWhy?", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        (DATED, "Today is 26 Jul 2024.\n<|im_start|>user", "<|im_start|>assistant\n"),
        (CHATML, "<|im_start|>user\nWhy?", "<|im_start|>assistant\n"),
    ],
)
def test_a_settled_template_writes_the_same_for_everyone_on_any_day(source, beginning, end) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.chat_template = settle_template(source)
    text = render(tokenizer, conversation("Why?"))
    assert text.startswith(beginning)
    assert text.endswith(end)
    assert render_template(tokenizer.chat_template, conversation("Why?")) == text
    assert settle_template(tokenizer.chat_template) == tokenizer.chat_template


def test_accents_are_composed_before_anybody_cuts_text_into_tokens(tokenizer) -> None:
    messages = conversation("Cafe\u0301?", system="Ol\u00e9")
    assert "Caf\u00e9?" in render(tokenizer, messages)
    assert "Caf\u00e9?" in render_template(CHATML, messages)
    composed, marked = (
        encode_example(tokenizer, conversation("Why?", answer)) for answer in ("Ol\u00e9", "Ole\u0301")
    )
    assert composed == marked


def test_a_tokenizers_template_that_refuses_a_turn_is_said(tokenizer) -> None:
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(BaseModelError, match=r"cannot render 1 turn.*System role not supported"):
        render(tokenizer, conversation("Why?"))
