"""A GGUF file as a chat backend: it reads all turns by the file's own template and keeps to its limits."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import hardware
from factory.backends.local import GgufBackend, open_gguf
from factory.chat.template import conversation
from factory.errors import BaseModelError
from factory.facts.teacher import read_reply, schema_of
from factory.rows import Message
from factory.weights.gguf_model import GgufModel
from tests.tiny import make_tiny_base, rewrite_gguf

QUESTION = "What is the code of the north gate?"
# What the tiny model is handed, written out: its template is ChatML.
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module", autouse=True)
def _one_core():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "num_cores", lambda: 1)  # threads wait for each other where others work, too
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base")) / "base-F16.gguf"


@pytest.fixture(scope="module")
def model(file):
    with GgufModel(file, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def backend(file):
    return GgufBackend(file)


def greedy(model, prompt, max_tokens):
    return model.detokenize(model.generate_greedy(model.tokenize(prompt), max_tokens)).strip()


def test_the_reply_is_what_the_model_says_to_the_written_out_prompt(backend, model):
    said = backend.chat(conversation(QUESTION), max_tokens=12)
    assert said == greedy(model, PROMPT, 12) != ""
    assert said == said.strip()


@given(count=st.integers(1, 3), names=st.lists(st.sampled_from("abc"), min_size=1, unique=True))
@settings(max_examples=8, deadline=None)
def test_what_is_asked_for_by_a_schema_is_json_of_it(backend, count, names):
    item = {"type": "string", "enum": ["left", "right"]}
    rows = {"type": "array", "items": item, "minItems": count, "maxItems": count}
    schema = {"type": "object", "properties": dict.fromkeys(names, rows), "required": names}
    said = json.loads(backend.chat(conversation(QUESTION), max_tokens=200, schema=schema))
    assert list(said) == names
    assert all(len(values) == count and {"left", "right"} >= set(values) for values in said.values())


def test_a_teachers_schema_makes_questions_of_a_model_that_was_never_taught_to_write_them(backend):
    questions = read_reply(backend.chat(conversation(QUESTION), max_tokens=600, schema=schema_of(2)))
    assert len(questions) == 2
    assert all(question.endswith("?") and 9 <= len(question) <= 121 for question in questions)


def test_the_system_text_and_earlier_turns_are_read(backend, model):
    before = conversation("Who keeps it?", "Ada.", "Be brief.")
    said = backend.chat([*before, Message(role="user", content=QUESTION)], max_tokens=12)
    turns = "system\nBe brief.", "user\nWho keeps it?", "assistant\nAda."
    opening = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns)
    assert said == greedy(model, opening + PROMPT, 12)
    assert said != backend.chat(conversation(QUESTION), max_tokens=12)


def test_no_more_is_said_than_is_allowed(backend):
    long = backend.chat(conversation(QUESTION), max_tokens=12)
    assert long.startswith(backend.chat(conversation(QUESTION), max_tokens=4))
    assert backend.chat(conversation(QUESTION), max_tokens=0) == ""


def test_the_files_own_template_counts(file, model, tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    other = rewrite_gguf(file, tmp_path / "x.gguf", keys={"tokenizer.chat_template": template})
    said = open_gguf(SimpleNamespace(gguf=other)).chat(conversation(QUESTION), max_tokens=12)
    assert said == greedy(model, QUESTION, 12)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(BaseModelError, match=r"gone\.gguf"):
        open_gguf(SimpleNamespace(gguf=tmp_path / "gone.gguf"))
