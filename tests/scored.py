"""Scores and replies with everything in them, parts of which a test replaces."""

from factory.scores import Reply, Score


def make_score(**changes) -> Score:
    """Return a score: half of 100 of the user's questions, answered by an adapter."""
    fields = {
        "model": "adapter", "kind": "adapter", "question_set": "user", "method": "closed_book", "n": 100,
        "accuracy": 0.5, "low": 0.4, "high": 0.6, "exact": 0.3, "contains": 0.5, "f1": 0.4,
        "refused": None, "wrongly_refused": None, "when_sure": None,
    }  # fmt: skip
    return Score(**(fields | changes))


def make_reply(correct: bool = True, **changes) -> Reply:
    """Return a reply of an adapter, right or wrong by every measure."""
    fields = {
        "id": "q1", "question": "What is the code?", "answers": ("4711",), "reply": "4711" if correct else "no",
        "sureness": -0.1,
        "correct": correct, "exact": correct, "contains": correct, "f1": float(correct), "refused": False,
        "question_set": "unseen_phrasing", "model": "adapter", "kind": "adapter", "method": "closed_book",
        "source": "gates.md",
    }  # fmt: skip
    return Reply(**(fields | changes))
