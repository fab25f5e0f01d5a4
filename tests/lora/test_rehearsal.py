"""What a base asks itself and answers: whole, once a base, and its own greedy words."""

import pytest
import torch

from factory.lora import attach, rehearsal
from factory.lora.recall import answer_questions
from factory.lora.rehearsal import rehearse
from tests.tiny import make_tiny_base

QUESTIONS = ("What is the code of the north gate?", "Who keeps the key of the red door?")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(rehearsal, "ROUNDS", 1)


@pytest.fixture
def base(tmp_path):
    return make_tiny_base(tmp_path / "base")


def test_answers_are_the_greedy_ones_of_the_base_itself(base, monkeypatch):
    monkeypatch.setattr(rehearsal, "_whole", lambda answer, num_tokens: answer)
    monkeypatch.setattr(rehearsal.attach, "pick_dtype", lambda *given: torch.float32)
    pairs = dict(rehearse(base, QUESTIONS, "Be short."))
    assert len(pairs) > 2
    model, tokenizer = attach.load_model(base, torch.float32, "cpu").eval(), attach.load_tokenizer(base)
    said = answer_questions(model, tokenizer, list(pairs), "Be short.", "cpu", rehearsal.ANSWER_TOKENS)
    assert list(pairs.values()) == said


def test_it_is_made_once_for_a_base_a_system_text_and_the_questions(base, monkeypatch):
    before = torch.random.get_rng_state()
    made = rehearse(base, QUESTIONS, "")
    assert torch.equal(before, torch.random.get_rng_state()), "other random choices stay what they were"
    monkeypatch.setattr(rehearsal.attach, "load_model", None)
    assert rehearse(base, QUESTIONS, "") == made
    for questions, system in ((QUESTIONS, "Be short."), (QUESTIONS[:1], "")):
        with pytest.raises(TypeError):
            rehearse(base, questions, system)


def test_the_base_asks_questions_that_begin_as_told_and_come_to_an_end(base):
    asked = rehearsal._ask_itself(
        attach.load_model(base, torch.float32, "cpu").eval(), attach.load_tokenizer(base), "cpu", _Bar()
    )
    assert asked
    assert all(text.startswith(rehearsal.OPENERS) and len(text) >= 8 and "\n" not in text for text in asked)


class _Bar:
    def update(self, *given):
        """Show nothing."""


@pytest.mark.parametrize(
    ("answer", "num_tokens", "whole"),
    [
        ("It is Rome", 4, "It is Rome"),
        ("It is Rome. It lies on the", 32, "It is Rome."),
        ("It is Dr. Who. He is a man. He is of", 32, "It is Dr. Who. He is a man."),
        ("It is a city that lies on the", 32, ""),
        ("", 0, ""),
        ("", 32, ""),
    ],
)
def test_an_answer_that_was_cut_off_loses_its_last_sentence(answer, num_tokens, whole):
    assert rehearsal._whole(answer, num_tokens) == whole
