"""An answer that rests on passages: found, put above the question, and cited beside the reply. Knows no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bm25s.stopwords import STOPWORDS_EN

from factory.chat.backend import Answer
from factory.chat.context import chunk_heading, chunk_text, with_context
from factory.facts.abstain import ABSTENTION, is_abstention
from factory.rows import Chunk
from factory.tasks.retrieval import Hit, Retriever
from factory.text import normalize


@dataclass(frozen=True)
class Citation:
    """A passage that stood in the prompt, and whether it holds the reply's words.

    `heading` is the document's title and the headings below it; `page` that of the words, else the passage's first.
    """

    document: str
    heading: str
    page: int | None
    score: float
    holds_answer: bool


@dataclass(frozen=True)
class Answered:
    """An answer and the passages that stood above the question, best first; none means that it is closed-book."""

    answer: str
    passages: tuple[Citation, ...]


@dataclass(frozen=True)
class Remembered:
    """An answer from memory, how sure the model was of it in nats, and what it would have said had it been sure."""

    answer: str
    sureness: float
    guess: str | None = None


def from_memory(reply: Answer, sure_from: float | None) -> Remembered:
    """Return a reply, or that the model does not know where it is less sure than `sure_from`."""
    if sure_from is None or reply.sureness >= sure_from or is_abstention(reply.text):
        return Remembered(reply.text, round(reply.sureness, 4))
    return Remembered(ABSTENTION, round(reply.sureness, 4), reply.text)


def answer(ask: Callable[[str], str], retriever: Retriever, question: str, count: int) -> Answered:
    """Return what a model replies to a question with up to `count` passages above it.

    Args:
        ask: returns a model's reply to one user turn.
        retriever: finds the passages.
        question: as the user asked it.
        count: the most passages in the prompt.
    """
    hits = retriever.find(question, count)
    reply = ask(with_context([chunk_text(hit.chunk) for hit in hits], question))
    return Answered(reply, cite(hits, reply))


def cite(hits: Sequence[Hit], reply: str) -> tuple[Citation, ...]:
    """Return what was found as citations of a reply."""
    return tuple(
        Citation(
            document=hit.chunk.document,
            heading=chunk_heading(hit.chunk),
            page=_page(hit.chunk, reply),
            score=round(hit.score, 4),
            holds_answer=holds(chunk_text(hit.chunk), reply),
        )
        for hit in hits
    )


def holds(text: str, reply: str) -> bool:
    """Tell whether a text holds a reply: as it stands, or all of its words but the commonest; never an abstention."""
    if is_abstention(reply):
        return False
    words = set(normalize.tokens(reply)) - set(STOPWORDS_EN)
    return normalize.contains(text, reply) or (bool(words) and words <= set(normalize.tokens(text)))


def _page(chunk: Chunk, reply: str) -> int | None:
    pages = [element.page for element in chunk.elements if holds(element.text, reply)]
    return next(iter([*pages, *(element.page for element in chunk.elements)]), None)
