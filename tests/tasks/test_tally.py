"""Replies counted: every model, method and set apart, and documents by who answered them."""

from factory.scores import Score
from factory.tasks.tally import by_document, scores
from tests.scored import make_reply


def test_scores_count_each_model_method_and_set() -> None:
    replies = [make_reply(number < 5, model="m") for number in range(10)]
    replies += [make_reply(True, model="m", question_set="general") for _ in range(3)]
    replies += [make_reply(False, model="m", method="rag", kind="base") for _ in range(2)]
    rows = [row.model_dump() for row in scores(replies)]
    assert rows[0] == {
        "model": "m", "kind": "adapter", "question_set": "unseen_phrasing", "method": "closed_book", "n": 10,
        "accuracy": 0.5, "low": 0.2366, "high": 0.7634, "exact": 0.5, "contains": 0.5, "f1": 0.5,
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


def test_documents_are_compared_by_base_adapter_and_retrieval() -> None:
    one, two = {"source": "doc1.md"}, {"source": "doc0.md"}
    replies = [
        *(make_reply(number == 1, **one) for number in (1, 3, 5)),
        *(make_reply(False, kind="base", **one) for _ in range(3)),
        make_reply(True, kind="base", method="rag", **one),
        make_reply(True, kind="gguf", **one),
        make_reply(True, **two),
        make_reply(True, answers=(), **two),
        make_reply(True, source=None),
    ]
    assert by_document(replies) == [
        {"document": "doc0.md", "n": 1, "adapter": 1.0},
        {"document": "doc1.md", "n": 3, "adapter": 0.3333, "base": 0.0, "rag": 1.0},
    ]
