"""What an evaluation hands over: replies, scores and comparisons made of them, as frozen records; no logic."""

from typing import Literal

from factory.rows import Row

Kind = Literal["base", "adapter", "merged", "gguf", "endpoint"]
Method = Literal["closed_book", "rag"]
QuestionSet = Literal["unseen_phrasing", "unseen_fact", "general", "user"]
CALIBRATION = "calibration"  # the set of questions that say how sure is sure enough; it is counted nowhere


class Reply(Row):
    """One model's reply to one question and how it was graded, as `tasks.score.Grade` says.

    `sureness` is that of `chat.backend.Answer`, in nats.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    reply: str
    sureness: float
    correct: bool
    exact: bool
    contains: bool
    f1: float
    refused: bool
    question_set: str
    model: str
    kind: Kind
    method: Method
    source: str | None


class Share(Row):
    """A share of `n` with its 95 % interval."""

    n: int
    share: float
    low: float
    high: float


class Hedged(Row):
    """What is left of a model's replies where those less sure than `threshold`, in nats, say that it does not know.

    `answered` is the share of the questions with an answer that it still answers, `right` the share of right ones
    among these replies, `refused` the share of the questions without an answer that it declines; None where there is
    none.
    """

    threshold: float
    answered: Share | None
    right: Share | None
    refused: Share | None


class Score(Row):
    """How many of `n` questions a model answered right, as a share with its 95 % interval.

    `n` are the questions of the set that have an answer; where none has, all, and right is to decline. `exact`,
    `contains` and `f1` are stricter and laxer ways to count on the same questions. `refused` is the share of questions
    without an answer that the model declined, `wrongly_refused` that of answerable ones which it declined instead of
    answering them right; each is None when no such question was asked. `when_sure` is None where it is not known how
    sure is sure enough.
    """

    model: str
    kind: Kind
    question_set: QuestionSet
    method: Method
    n: int
    accuracy: float
    low: float
    high: float
    exact: float
    contains: float
    f1: float
    refused: Share | None
    wrongly_refused: Share | None
    when_sure: Hedged | None


class Comparison(Row):
    """How a model did against another on the `n` questions of a set that both were asked and that count.

    `difference` is its share of right answers less the other's, `low` to `high` the 95 % interval over `documents`
    drawn anew (a question on none is one of its own). `gained` questions it alone got right, `lost` the other alone;
    `p` is McNemar's exact test of the two.
    """

    question_set: QuestionSet
    model: str
    method: Method
    other: str
    other_method: Method
    n: int
    documents: int
    accuracy: float
    other_accuracy: float
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float


class DocumentScore(Row):
    """The share of the `n` answerable questions of a set on one document that each model answered right.

    Retrieval was asked `rag_n` of them; a model that was asked none has None.
    """

    document: str
    question_set: QuestionSet
    n: int
    base: float | None = None
    adapter: float | None = None
    rag: float | None = None
    rag_n: int = 0


class Judgement(Row):
    """How a model's replies to `n` questions did against another's before a judge that saw each pair in both orders.

    `won` and `lost` hold in both orders, `tied` is a tie in both; `flipped` verdicts change with the order. A tie or a
    flip counts as half in `win_rate`. Of the two verdicts a question, `unclear` ones said nothing and count as a tie.
    `p` is the exact test of `won` and `lost`.
    """

    judge: str
    question_set: QuestionSet
    model: str
    method: Method
    other: str
    other_method: Method
    n: int
    won: int
    lost: int
    tied: int
    flipped: int
    unclear: int
    win_rate: float
    flip_rate: float
    p: float
