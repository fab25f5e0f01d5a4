"""Two models on the same questions: who meets whom, on which questions, and what the numbers say."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.tasks.compare import chance, comparisons, describe, difference_interval, mcnemar, points
from tests.scored import make_reply

FEW = settings(max_examples=50, deadline=None)
BASE = {"model": "b", "kind": "base"}
RAG = BASE | {"method": "rag"}
SMALL = {"model": "m-Q8_0.gguf", "kind": "gguf"}


def answered(right: str, source: str | None = "a.md", **model):
    """Return replies of a model to questions numbered in order; `1` is a right one."""
    return [make_reply(mark == "1", id=f"q{i}", source=source, **model) for i, mark in enumerate(right)]


def test_the_adapter_meets_base_and_retrieval_and_each_file_meets_the_adapter() -> None:
    other_file = SMALL | {"model": "m-Q4_K_M.gguf"}
    replies = [
        reply
        for model in (BASE, {}, SMALL, other_file, RAG, {"method": "rag"})
        for question_set in ("unseen_phrasing", "general")
        for reply in answered("10", question_set=question_set, **model)
    ]
    found = [
        (row.question_set, row.model, row.other, row.method, row.other_method) for row in comparisons(replies)
    ]
    assert sorted(found) == sorted(
        (question_set, model, other, method, other_method)
        for question_set in ("unseen_phrasing", "general")
        for model, other, method, other_method in (
            ("adapter", "b", "closed_book", "closed_book"),
            ("adapter", "b", "closed_book", "rag"),
            ("adapter", "b", "rag", "rag"),
            ("m-Q8_0.gguf", "adapter", "closed_book", "closed_book"),
            ("m-Q4_K_M.gguf", "adapter", "closed_book", "closed_book"),
        )
    )
    assert comparisons([]) == []


def test_only_questions_that_both_were_asked_count() -> None:
    (row,) = comparisons(answered("1100110011") + answered("10", **RAG))
    assert (row.n, row.accuracy, row.other_accuracy, row.gained, row.lost) == (2, 1.0, 0.5, 1, 0)
    assert (row.difference, row.p) == (0.5, 1.0)
    strangers = [reply.model_copy(update={"id": "x"}) for reply in answered("1", **BASE)]
    assert comparisons(answered("1") + strangers) == []


def test_questions_without_an_answer_count_only_among_themselves() -> None:
    def both(**changes):
        return [
            make_reply(model == {}, id=f"n{len(changes)}", **changes, **model)
            for model in ({}, BASE)
            for _ in (1,)
        ]

    (mixed,) = comparisons(answered("10") + answered("10", **BASE) + both(answers=()))
    assert (mixed.n, mixed.difference) == (2, 0.0)
    (alone,) = comparisons(both(answers=(), question_set="unseen_fact"))
    assert (alone.n, alone.difference) == (1, 1.0)


def test_the_test_is_the_exact_one_on_the_questions_they_differ_in() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * sum(math.comb(12, k) for k in range(3)) / 2**12)
    assert mcnemar(2, 10) == mcnemar(10, 2)
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0
    (row,) = comparisons(answered("1" * 10 + "00" + "1" * 88) + answered("0" * 10 + "11" + "1" * 88, **BASE))
    assert (row.gained, row.lost, row.difference) == (10, 2, 0.08)
    assert row.p == pytest.approx(0.038574, abs=1e-6)


def test_the_interval_is_that_of_the_normal_law_when_every_question_is_its_own_document() -> None:
    draw = random.Random(3)
    differences = [draw.choice((-1, 0, 0, 1, 1)) for _ in range(400)]
    mean = sum(differences) / 400
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences)) / 400
    low, high = difference_interval(differences, [str(i) for i in range(400)])
    assert (low, high) == pytest.approx((mean - 1.96 * spread, mean + 1.96 * spread), abs=0.012)


def test_documents_that_stand_and_fall_as_one_make_it_wider() -> None:
    differences = [1] * 50 + [0] * 50 + [1] * 50 + [-1] * 50
    alone = difference_interval(differences, [str(i) for i in range(200)])
    joined = difference_interval(differences, [str(i // 50) for i in range(200)])
    assert joined[1] - joined[0] > 4 * (alone[1] - alone[0])
    assert difference_interval(differences, ["one"] * 200) == pytest.approx(alone, abs=0.02), (
        "of one document its questions are drawn"
    )


@FEW
@given(st.lists(st.tuples(st.integers(-1, 1), st.sampled_from("abcde")), min_size=1, max_size=40))
def test_the_interval_is_the_same_every_time_and_mirrors_with_the_models(rows: list[tuple[int, str]]) -> None:
    differences, clusters = [row[0] for row in rows], [row[1] for row in rows]
    low, high = difference_interval(differences, clusters)
    assert -1 <= low <= high <= 1
    assert difference_interval(differences, clusters) == (low, high)
    mirrored = difference_interval([-difference for difference in differences], clusters)
    assert mirrored == pytest.approx((-high, -low))


@FEW
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_numbers_of_a_comparison_agree(pairs: list[tuple[bool, bool]]) -> None:
    mine = answered("".join("01"[one] for one, _ in pairs), source=None)
    (row,) = comparisons(mine + answered("".join("01"[other] for _, other in pairs), source=None, **BASE))
    assert row.n == row.documents == len(pairs)
    assert row.difference == pytest.approx(row.accuracy - row.other_accuracy, abs=2e-4)
    assert row.difference == pytest.approx((row.gained - row.lost) / row.n, abs=1e-4)
    assert 0 < row.p <= 1


def test_a_comparison_reads_as_a_line() -> None:
    (row,) = comparisons(answered("1111") + answered("0011", **RAG))
    assert describe(row) == (
        "adapter against b with retrieval, unseen_phrasing: +50.0 points [+0.0, +100.0]  p=0.500  n=4"
    )
    (both,) = comparisons(answered("11", method="rag") + answered("01", **RAG))
    assert describe(both).startswith(
        "adapter with retrieval against b with retrieval, unseen_phrasing: +50.0"
    )
    assert (points(-0.031), points(0.0), chance(0.0004), chance(0.05)) == ("-3.1", "+0.0", "< 0.001", "0.050")
