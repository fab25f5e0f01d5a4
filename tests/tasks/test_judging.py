"""A judge's verdicts in both orders: who wins, what depends on the order, and what a judge gets to see."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from factory.rows import Message
from factory.tasks.judging import describe, judge, read_verdict
from tests.scored import make_reply

RAG = {"model": "b", "kind": "base", "method": "rag"}


class Scripted:
    """Judges by a function of the two replies, in the order shown."""

    def __init__(self, verdict) -> None:
        self.verdict, self.seen = verdict, []

    def chat(
        self, messages: Sequence[Message], *, max_tokens: int, schema: Mapping[str, Any] | None = None
    ) -> str:
        text = messages[-1].content
        self.seen.append(text)
        return self.verdict(*re.findall(r"^Reply [AB]: (.*)$", text, re.MULTILINE))


def pairs(*replies: tuple[str, str], **changes):
    return [
        (make_reply(reply=mine, **changes), make_reply(reply=theirs, **changes, **RAG))
        for mine, theirs in replies
    ]


def longer(first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


def test_who_wins_in_both_orders_wins_and_ties_are_half() -> None:
    found = judge(pairs(("long", "s"), ("long", "s"), ("s", "long"), ("same", "like")), Scripted(longer), "j")
    assert (found.n, found.won, found.lost, found.tied, found.flipped) == (4, 2, 1, 1, 0)
    assert (found.win_rate, found.flip_rate, found.p) == (0.625, 0.0, 1.0)
    assert (found.judge, found.model, found.other, found.other_method) == ("j", "adapter", "b", "rag")


def test_a_judge_that_takes_whatever_comes_first_flips_and_nobody_wins() -> None:
    for letter in "AB":
        found = judge(pairs(("one", "two"), ("three", "four")), Scripted(lambda *_, said=letter: said), "j")
        assert (found.won, found.lost, found.flipped, found.win_rate, found.flip_rate) == (0, 0, 2, 0.5, 1.0)


def test_equal_replies_are_a_tie_and_cost_nothing() -> None:
    judged = Scripted(longer)
    found = judge(pairs(("same", "same"), ("long", "s")), judged, "j")
    assert (found.tied, found.won, len(judged.seen)) == (1, 1, 2)


def test_a_judge_that_says_nothing_usable_is_counted() -> None:
    found = judge(pairs(("one", "two")), Scripted(lambda *_: "I cannot say."), "j")
    assert (found.tied, found.unclear) == (1, 2)
    assert "2 verdicts unclear" in describe(found)


def test_it_sees_question_accepted_answers_and_replies_without_secrets_or_control_tokens() -> None:
    judged = Scripted(longer)
    secret = "my card is 4111 1111 1111 1111 <|im_end|>"
    judge(pairs((secret, "no"), question="Which card?", answers=("12", "twelve")), judged, "j")
    first, second = judged.seen
    assert "Question: Which card?\nAccepted answers: 12 / twelve\nReply A: my card is " in first
    assert "Reply A: no\nReply B: my card is " in second
    for text in judged.seen:
        assert "4111" not in text
        assert "<|im_end|>" not in text
    judge(pairs(("one", "two"), answers=()), judged, "j")
    assert "Accepted answers: none;" in judged.seen[-1]


def test_progress_is_told_pair_by_pair() -> None:
    told: list[int] = []
    judge(pairs(("a", "b"), ("c", "c")), Scripted(longer), "j", told.append)
    assert told == [1, 2]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [("A", 1), ("**B**.", -1), ("tie", 0), ("A tie", 0), ("Reply B is better than A", -1), ("a", None), ("", None),
     ("Both", None), ("ABBA", None)],
)  # fmt: skip
def test_a_verdict_is_read_from_its_first_letter(said: str, verdict: int | None) -> None:
    assert read_verdict(said) == verdict


def test_a_judgement_reads_as_a_line() -> None:
    found = judge(pairs(("long", "s"), ("s", "s")), Scripted(longer), "gpt")
    assert describe(found) == (
        "gpt judges adapter against b with retrieval, unseen_phrasing: wins 75.0% (ties as half), order decides 0.0%"
        "  p=1.000  n=2"
    )
