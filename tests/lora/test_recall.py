"""Recall: the share of questions a model answers, scored as the evaluation does."""

import pytest
import torch

from factory.lora import attach
from factory.lora.recall import Recall, answer_questions
from factory.rows import Question
from tests.tiny import TINY_ROWS, make_tiny_adapter


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """The tiny base with an adapter that has learned the tiny rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = make_tiny_adapter(base, tmp_path_factory.mktemp("recall") / "adapter", steps=150)
    torch.set_num_threads(threads)
    return attach.load_adapter(attach.load_model(base, torch.float32, "cpu"), folder).eval()


def _questions(*answers: tuple[str, ...]) -> list[Question]:
    return [
        Question(id=str(number), question=question, answers=found, question_set="valid", form="indirect")
        for number, ((question, _), found) in enumerate(zip(TINY_ROWS, answers, strict=True))
    ]


def test_what_was_learned_is_answered_in_order_and_ends(learned, tokenizer) -> None:
    questions = [question for question, _ in TINY_ROWS]
    replies = answer_questions(learned, tokenizer, questions, "", "cpu")
    assert [reply.text for reply in replies] == [answer for _, answer in TINY_ROWS]
    assert all(-0.5 < reply.sureness < 0 for reply in replies)
    assert answer_questions(learned, tokenizer, questions[::-1], "", "cpu") == replies[::-1]
    assert (
        len(tokenizer(answer_questions(learned, tokenizer, questions[:1], "", "cpu", 2)[0].text)["input_ids"])
        <= 2
    )


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        ((("4711",), ("Ada",), ("12 bar",), ("green",)), 1.0),
        ((("4711",), ("Eve", "ada"), ("twelve bar",), ("red",)), 0.75),
        ((("471",), ("Eve",), ("2 bar",), ("gree",)), 0.0),
    ],
)
def test_recall_is_the_share_that_holds_an_accepted_answer(learned, tokenizer, answers, share: float) -> None:
    assert Recall(learned, tokenizer, _questions(*answers), "", "cpu")() == share


def test_no_questions_are_no_recall(learned, tokenizer) -> None:
    assert Recall(learned, tokenizer, [], "", "cpu")() == 0.0


def test_the_system_text_is_part_of_the_prompt(base, tokenizer, new_model) -> None:
    model = new_model(trained=True).eval()
    questions = [question for question, _ in TINY_ROWS]
    plain = answer_questions(model, tokenizer, questions, "", "cpu", 12)
    assert plain != answer_questions(model, tokenizer, questions, "The lamp is green. " * 5, "cpu", 12)
