import json
from dataclasses import replace
from pathlib import Path

from factory.api.models import EndpointSpec, ServedModel, endpoint_model, stub_model
from factory.backends.engine import EngineSpec
from factory.web.prompts import rendered
from factory.weights.gguf_tokens import Vocabulary
from tests.tiny import CHATML

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = [*TURNS, {"role": "user", "content": "Why?"}]
MODEL = ServedModel(
    "m", "file", "Be brief.", engine=EngineSpec(Path("m.gguf")), vocabulary=Vocabulary(template=CHATML)
)


def _turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def test_a_prompt_is_what_the_files_template_makes_of_the_turns():
    expected = _turn("system", "Be brief.") + _turn("user", "Who?") + _turn("assistant", "Ada.")
    expected += _turn("user", "Why?") + "<|im_start|>assistant\n"

    assert rendered(MODEL, [SYSTEM, *ASKED]) == expected


def test_nothing_is_added_to_what_was_sent():
    assert rendered(MODEL, TURNS[:1]) == _turn("user", "Who?") + "<|im_start|>assistant\n"


def test_a_template_gets_the_opening_token_of_the_file():
    model = replace(MODEL, vocabulary=Vocabulary(template="{{ bos_token }}{{ messages|length }}", bos="<s>"))
    assert rendered(model, [SYSTEM, *ASKED]) == "<s>4"


def test_why_a_prompt_is_not_known_is_said():
    away = endpoint_model(EndpointSpec("a", "https://a.example", "b"))
    reasons = {
        "endpoint renders": [away, stub_model()],
        "no chat template": [replace(MODEL, vocabulary=None), replace(MODEL, vocabulary=Vocabulary())],
        "not served any more": [None],
    }
    for reason, models in reasons.items():
        for model in models:
            why, _, messages = rendered(model, ASKED).partition("\n")
            assert reason in why
            assert json.loads(messages) == ASKED
    assert "Nothing was sent" in rendered(MODEL, ())


def test_a_template_that_fails_or_reaches_out_is_a_sentence_and_no_exception():
    for template in (
        "{{ messages[",
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ):
        text = rendered(replace(MODEL, vocabulary=Vocabulary(template=template)), ASKED)
        assert "template" in text, text
