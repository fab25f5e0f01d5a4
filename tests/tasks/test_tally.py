"""Replies counted: every model, method and set apart, and documents by who answered them."""

import pytest

from factory.scores import CALIBRATION, DocumentScore, Score, Share
from factory.tasks.tally import MIN_REPLIES, by_document, describe, scores, thresholds
from tests.scored import make_reply, make_score


def test_scores_count_each_model_method_and_set() -> None:
    replies = [make_reply(number < 5, model="m") for number in range(10)]
    replies += [make_reply(True, model="m", question_set="general") for _ in range(3)]
    replies += [make_reply(False, model="m", method="rag", kind="base") for _ in range(2)]
    rows = [row.model_dump() for row in scores(replies)]
    assert rows[0] == {
        "model": "m", "kind": "adapter", "question_set": "unseen_phrasing", "method": "closed_book", "n": 10,
        "accuracy": 0.5, "low": 0.2366, "high": 0.7634, "exact": 0.5, "contains": 0.5, "f1": 0.5,
        "refused": None, "wrongly_refused": {"n": 10, "share": 0.0, "low": 0.0, "high": 0.2775}, "when_sure": None,
    }  # fmt: skip
    assert [(row["question_set"], row["method"], row["n"], row["accuracy"]) for row in rows[1:]] == [
        ("general", "closed_book", 3, 1.0),
        ("unseen_phrasing", "rag", 2, 0.0),
    ]
    assert all(Score(**row).low <= row["accuracy"] <= row["high"] for row in rows)
    assert scores([]) == []


def test_every_measure_is_the_mean_of_its_own() -> None:
    replies = [
        make_reply(True, exact=False, contains=False, f1=0.5),
        make_reply(False, exact=False, contains=True, f1=0.2),
    ]
    (row,) = scores(replies)
    assert (row.accuracy, row.exact, row.contains, row.f1) == (0.5, 0.0, 0.5, 0.35)


def _refusing(*refused: bool, **changes):
    return [make_reply(False, refused=did, **changes) for did in refused]


def test_questions_without_an_answer_are_scored_apart_from_those_with_one() -> None:
    answerable = [make_reply(True), make_reply(True, refused=True), *_refusing(True, False)]
    unanswerable = [
        make_reply(did, refused=did, answers=())
        for did in (True, False, False, False, True, False, False, False)
    ]
    (row,) = scores(answerable + unanswerable)
    assert (row.n, row.accuracy) == (4, 0.5)
    assert row.refused == Share(n=8, share=0.25, low=0.0715, high=0.5907)
    assert row.wrongly_refused is not None
    assert (row.wrongly_refused.n, row.wrongly_refused.share) == (4, 0.25), "one declined and yet said it"
    (alone,) = scores(unanswerable)
    assert (alone.n, alone.accuracy, alone.refused, alone.wrongly_refused) == (8, 0.25, row.refused, None)


def _calibrated(*sureness: float, correct: bool = True, **changes):
    return [make_reply(correct, sureness=one, question_set=CALIBRATION, **changes) for one in sureness]


def test_sure_enough_is_half_way_between_right_replies_and_others() -> None:
    right, others = _calibrated(*[-0.1] * 15), _calibrated(*[-0.4] * 20, correct=False)
    assert thresholds(right + others) == {"adapter": -0.2}
    unanswerable = _calibrated(*[-1.6] * 20, correct=False, answers=())
    assert thresholds(right + others + unanswerable) == {"adapter": pytest.approx(-0.2828, abs=1e-4)}
    assert thresholds(_calibrated(*[-0.1] * (MIN_REPLIES - 1)) + others) == {}
    assert thresholds(right + _calibrated(*[-1.0] * (MIN_REPLIES - 1), correct=False)) == {}
    refused = _calibrated(*[-0.01] * 50, correct=False, refused=True)
    assert thresholds(right + others + refused) == {"adapter": -0.2}
    with_passages = [reply.model_copy(update={"method": "rag"}) for reply in right + others]
    assert thresholds([make_reply(True)] * 50 + with_passages) == {}


def test_where_right_replies_are_no_surer_nothing_is_declined() -> None:
    assert thresholds(_calibrated(*[-0.5] * 20) + _calibrated(*[-0.5] * 20, correct=False)) == {}
    assert thresholds(_calibrated(*[0.0] * 20) + _calibrated(*[0.0] * 20, correct=False)) == {}


def test_what_is_left_when_unsure_answers_are_declined() -> None:
    replies = [make_reply(True, sureness=-0.1), make_reply(True, sureness=-2.0)]
    replies += [make_reply(False, sureness=-0.5), *[make_reply(False, sureness=-3.0)] * 3]
    replies += [make_reply(False, sureness=-0.1, refused=True)]
    replies += [make_reply(False, answers=(), sureness=sure) for sure in (-0.2, -1.0, -4.0, -5.0)]
    (row,) = scores(replies + _calibrated(-1.0), {"adapter": -1.0})
    assert row.when_sure is not None
    assert (row.accuracy, row.n) == (round(2 / 7, 4), 7)
    assert row.when_sure.model_dump() == {
        "threshold": -1.0,
        "answered": {"n": 7, "share": 0.2857, "low": 0.0822, "high": 0.6411},
        "right": {"n": 2, "share": 0.5, "low": 0.0945, "high": 0.9055},
        "refused": {"n": 4, "share": 0.5, "low": 0.15, "high": 0.85},
    }
    line = describe(row)
    assert line.endswith(
        "when sure: answers 28.6%, 50.0% of them right, declines 50.0% of 4 without an answer"
    )
    (with_passages,) = scores([make_reply(True, method="rag")], {"adapter": -1.0})
    assert with_passages.when_sure is None


def test_a_score_reads_as_a_line_with_its_refusals() -> None:
    (row,) = scores([make_reply(True), *_refusing(True), *_refusing(True, False, answers=())])
    line = describe(row)
    assert line.startswith(
        "adapter                      closed_book  unseen_phrasing     50.0%  [9.4%, 90.5%]  n=2"
    )
    assert line.endswith("n=2  refused 50.0% of 2 without an answer  wrongly refused 50.0%")
    assert describe(make_score()).endswith("[40.0%, 60.0%]  n=100")


def test_documents_are_compared_by_base_adapter_and_retrieval() -> None:
    one, two = {"source": "doc1.md"}, {"source": "doc0.md"}
    replies = [
        *(make_reply(number == 1, **one) for number in (1, 3, 5)),
        *(make_reply(False, kind="base", **one) for _ in range(3)),
        make_reply(True, kind="base", method="rag", **one),
        make_reply(False, method="rag", **one),
        make_reply(True, kind="gguf", **one),
        make_reply(True, **two),
        make_reply(True, answers=(), **two),
        make_reply(True, source=None),
    ]
    assert by_document(replies) == [
        DocumentScore(document="doc0.md", question_set="unseen_phrasing", n=1, adapter=1.0),
        DocumentScore(
            document="doc1.md",
            question_set="unseen_phrasing",
            n=3,
            adapter=0.3333,
            base=0.0,
            rag=1.0,
            rag_n=1,
        ),
    ]


def test_a_documents_question_sets_stand_apart() -> None:
    replies = [
        make_reply(True),
        make_reply(False, question_set="user"),
        make_reply(True, question_set="user"),
    ]
    found = [(row.document, row.question_set, row.n, row.adapter) for row in by_document(replies)]
    assert found == [("gates.md", "unseen_phrasing", 1, 1.0), ("gates.md", "user", 2, 0.5)]
