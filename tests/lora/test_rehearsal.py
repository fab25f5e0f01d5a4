"""What a base answers to general questions: its own greedy words, whole, made once."""

import pytest
import torch

from factory.lora import attach, rehearsal
from factory.lora.recall import answer_questions
from factory.lora.rehearsal import rehearse, whole
from tests.tiny import make_tiny_base

QUESTIONS = ("What is the code of the north gate?", "Who keeps the key of the red door?", "Is it green?")


@pytest.fixture
def base(tmp_path):
    return make_tiny_base(tmp_path / "base")


def test_answers_are_the_greedy_ones_of_the_base_itself(base, monkeypatch):
    monkeypatch.setattr(rehearsal, "whole", lambda answer, is_cut: answer.strip())
    monkeypatch.setattr(rehearsal.attach, "pick_dtype", lambda *given: torch.float32)
    pairs = dict(rehearse(base, QUESTIONS, "Be short."))
    assert list(pairs) == list(QUESTIONS)
    model, tokenizer = attach.load_model(base, torch.float32, "cpu").eval(), attach.load_tokenizer(base)
    said = answer_questions(model, tokenizer, QUESTIONS, "Be short.", "cpu", rehearsal.ANSWER_TOKENS)
    assert list(pairs.values()) == [answer.text for answer in said]


def test_whole_blocks_are_asked_once_for_a_base_and_a_system_text(base, monkeypatch):
    asked: list[tuple[list[list[str]], str]] = []

    def answer(base, blocks, system, device, quantization):
        asked.append((blocks, system))
        return [["" if "key" in question else f"To {question}" for question in block] for block in blocks]

    monkeypatch.setattr(rehearsal, "_answer", answer)
    monkeypatch.setattr(rehearsal, "BATCH", 2)
    gate, key, green = QUESTIONS
    assert rehearse(base, [gate, key], "") == [(gate, f"To {gate}")], "nothing to say is no answer"
    assert rehearse(base, QUESTIONS, "") == [(gate, f"To {gate}"), (green, f"To {green}")]
    assert rehearse(base, QUESTIONS, "") == [(gate, f"To {gate}"), (green, f"To {green}")]
    rehearse(base, [gate], "")
    rehearse(base, [gate, key], "Be short.")
    assert asked == [([[gate, key]], ""), ([[green]], ""), ([[gate]], ""), ([[gate, key]], "Be short.")]


def test_a_run_that_dies_between_blocks_keeps_the_first(base, monkeypatch):
    def answer(base, blocks, system, device, quantization):
        yield ["It is."] * len(blocks[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal, "_answer", answer)
    monkeypatch.setattr(rehearsal, "BATCH", 2)
    with pytest.raises(KeyboardInterrupt):
        rehearse(base, QUESTIONS, "")
    monkeypatch.setattr(rehearsal, "_answer", lambda base, blocks, *given: [["So."] for _ in blocks])
    assert [said for _, said in rehearse(base, QUESTIONS, "")] == ["It is.", "It is.", "So."]


@pytest.mark.parametrize(
    ("answer", "is_cut", "expected"),
    [
        (" It is Rome", False, "It is Rome"),
        ("It is Rome. It lies on the", True, "It is Rome."),
        ("It is Rome. It lies on the", False, "It is Rome. It lies on the"),
        ("It is Dr. Who. He is a man. He is of", True, "It is Dr. Who. He is a man."),
        ("It is a city that lies on the", True, ""),
        ("", False, ""),
        (" \n", True, ""),
    ],
)
def test_an_answer_that_was_cut_off_loses_its_last_sentence(answer, is_cut, expected):
    assert whole(answer, is_cut=is_cut) == expected
