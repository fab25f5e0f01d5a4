"""The verdict says what the numbers allow, and no more."""

import pytest

from factory.bundle.manifest import Gate
from factory.report.verdict import verdict
from factory.scores import Comparison, Hedged, Share
from tests.scored import make_score

FAILED = Gate(name="parity", subject="model-Q4_K_M.gguf", value=0.9, limit=1.0, passed=False)
PASSED = FAILED.model_copy(update={"passed": True})


def score(kind, share, n=150, method="closed_book", question_set="unseen_phrasing", model=None):
    return make_score(
        model=model or kind,
        kind=kind,
        question_set=question_set,
        method=method,
        n=n,
        accuracy=share,
        low=max(0.0, share - 0.08),
        high=min(1.0, share + 0.08),
    )


def test_a_good_adapter_that_retrieval_beats():
    scores = [score("base", 0.03), score("adapter", 0.52), score("base", 0.71, method="rag")]
    assert verdict(scores, [PASSED]) == (
        "The adapter answers 52 % of 150 held-out questions (base 3 %). "
        "Retrieval with the untrained base answers 71 %: for this corpus RAG was better."
    )


@pytest.mark.parametrize(
    ("share", "n", "expected"),
    [
        (0.9, 150, "answers 90 % of 150, more than the base with retrieval."),
        (0.2, 150, "answers 20 % of 150, less than the base with retrieval."),
        (0.72, 150, "answers 72 % of 150, no significant difference from the base with retrieval."),
        (0.9, 29, "answers 90 % of 29: too few to compare."),
    ],
)
def test_the_adapter_with_retrieval_is_compared_with_the_base_that_reads_the_same(share, n, expected):
    scores = [
        score("adapter", share, n=n, method="rag"),
        score("base", 0.03),
        score("adapter", 0.52),
        score("base", 0.71, method="rag"),
    ]
    assert verdict(scores, []) == (
        "The adapter answers 52 % of 150 held-out questions (base 3 %). "
        "Retrieval with the untrained base answers 71 %: for this corpus RAG was better. "
        f"With retrieval the adapter {expected}"
    )


@pytest.mark.parametrize(
    ("base", "tuned", "expected"),
    [
        (0.5, 0.54, "(base 50 %, no significant difference): no proof that it learned."),
        (0.6, 0.3, "(base 60 %: training made it worse)."),
        (0.1, 0.6, "(base 10 %)."),
    ],
)
def test_adapter_against_base(base, tuned, expected):
    assert expected in verdict([score("base", base), score("adapter", tuned)], [])


def test_a_quantized_file_that_loses_is_named():
    scores = [
        score("adapter", 0.6),
        score("gguf", 0.3, model="model-Q2_K.gguf"),
        score("gguf", 0.35, model="model-Q4_K_M.gguf"),
    ]
    said = verdict(scores, [])
    assert "model-Q4_K_M.gguf loses by quantization: 35 %." in said
    assert said.endswith("model-Q2_K.gguf answers 30 %: 30.0 points less, limit 5.")
    assert "no significant difference" in verdict([score("adapter", 0.6), score("gguf", 0.58)], [])


FILES = {"model-Q4_K_M.gguf": 0.62, "model-Q8_0.gguf": 0.59, "model-Q6_K.gguf": 0.57}


def judge_files(gates=(), **changes):
    shares = FILES | {f"model-{name}.gguf": share for name, share in changes.items()}
    return verdict(
        [score("adapter", 0.6), *(score("gguf", s, model=m) for m, s in shares.items() if s)], gates
    )


def test_the_file_that_serves_is_judged_not_the_best_one():
    said = judge_files()
    assert said.endswith("model-Q8_0.gguf answers 59 %, no significant difference.")
    assert "Q4_K_M" not in said
    assert judge_files(Q8_0=None).endswith("model-Q6_K.gguf answers 57 %, no significant difference.")
    failed = FAILED.model_copy(update={"subject": "model-Q8_0.gguf"})
    assert judge_files([failed]).endswith("model-Q6_K.gguf answers 57 %, no significant difference.")
    every = [FAILED.model_copy(update={"subject": name}) for name in FILES]
    assert "model-Q8_0.gguf answers 59 %" in judge_files(every)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"Q8_0": 0.57},
            "model-Q8_0.gguf answers 57 %: 3.0 points less, limit 2, no significant difference.",
        ),
        (
            {"Q4_K_M": 0.54},
            "no significant difference. model-Q4_K_M.gguf answers 54 %: 6.0 points less, limit 5.",
        ),
    ],
)
def test_every_file_beyond_its_limit_is_named(changes, expected):
    assert judge_files(**changes).endswith(expected)


def test_without_an_adapter_score_the_file_speaks():
    assert verdict([score("gguf", 0.6, model="m.gguf")], []).startswith(
        "m.gguf answers 60 % of 150 held-out questions (base not measured)."
    )


def test_the_users_own_questions_decide_and_few_are_too_few():
    scores = [
        score("adapter", 0.9),
        score("adapter", 0.5, n=10, question_set="user"),
        score("base", 0.0, n=10, question_set="user"),
    ]
    said = verdict(scores, [])
    assert said.startswith("The adapter answers 50 % of your 10 questions")
    assert said.endswith("n is too small to tell: ask at least 30 questions.")


def test_failed_gates_come_first():
    said = verdict([score("adapter", 0.5)], [PASSED, FAILED])
    assert said.startswith(
        "No: 1 of 2 quality gates failed, the first parity of model-Q4_K_M.gguf (0.9, limit 1)."
    )
    assert verdict([], []).startswith("Nothing was measured")


def compared(p, accuracy, other_accuracy, method="closed_book", low=0.01):
    return Comparison(
        question_set="unseen_phrasing", model="adapter", method="closed_book", other="base", other_method=method,
        n=50, documents=9, accuracy=accuracy, other_accuracy=other_accuracy, difference=accuracy - other_accuracy,
        low=low, high=0.3, gained=9, lost=1, p=p,
    )  # fmt: skip


def test_paired_answers_decide_so_that_a_small_but_steady_gain_counts():
    scores = [score("base", 0.50, n=100), score("adapter", 0.60, n=100)]
    assert "no significant difference" in verdict(scores, [])
    assert "(base 50 %)" in verdict(scores, [], [compared(0.002, 0.6, 0.5)])
    assert "no significant difference" in verdict(scores, [], [compared(0.2, 0.6, 0.5)])
    for low in (0.0, -0.02):
        assert "no significant difference" in verdict(scores, [], [compared(0.002, 0.6, 0.5, low=low)])
    other = compared(0.002, 0.6, 0.5).model_copy(update={"question_set": "general"})
    assert "no significant difference" in verdict(scores, [], [other])


def test_retrieval_asked_fewer_questions_is_compared_on_those():
    scores = [score("adapter", 0.40), score("base", 0.80, n=50, method="rag")]
    expected = "answers 80 % of 50 (the adapter 100 % of the same): for this corpus the adapter was better."
    assert expected in verdict(scores, [], [compared(0.002, 1.0, 0.8, "rag")])
    few = [score("adapter", 0.40), score("base", 0.90, n=5, method="rag")]
    assert "too few to compare" in verdict(few, [])


@pytest.mark.parametrize(
    ("user", "held_out", "expected"),
    [
        (
            (0.02, 0.05),
            (0.0, 0.56),
            "5 % of your 100 questions (base 2 %, no significant difference) and 56 % of 100 held-out questions near "
            "the documents' wording (base 0 %).",
        ),
        (
            (0.02, 0.05),
            (0.5, 0.56),
            "5 % of your 100 questions (base 2 %, no significant difference) and 56 % of 100 held-out questions near "
            "the documents' wording (base 50 %, no significant difference): no proof that it learned.",
        ),
    ],
)
def test_beside_the_users_questions_stands_what_was_learned_of_the_trained_facts(user, held_out, expected):
    scores = [
        score(kind, accuracy, n=100, question_set=question_set)
        for question_set, values in (("user", user), ("unseen_phrasing", held_out))
        for kind, accuracy in zip(("base", "adapter"), values, strict=True)
    ]
    assert verdict(scores, []) == f"The adapter answers {expected}"
    assert "wording" not in verdict(scores[2:], [])
    assert "m.gguf answers 4 % of yours, no" in verdict(
        [*scores, score("gguf", 0.04, question_set="user", model="m.gguf")], []
    )


def test_what_it_is_sure_of_is_told_where_that_is_known() -> None:
    part = Share(n=100, share=0.4, low=0.3, high=0.5)
    sure = Hedged(
        threshold=-0.2, answered=part, right=Share(n=40, share=0.6, low=0.5, high=0.7), refused=None
    )
    scores = [make_score(kind="base", model="b", accuracy=0.02), make_score(when_sure=sure)]
    told = "It is sure enough to answer 40 % of them, 60 % of these rightly; factory ask declines the others."
    assert told in verdict(scores, [])
    none_left = sure.model_copy(update={"right": None})
    assert "is sure" not in verdict([make_score(when_sure=none_left)], [])
