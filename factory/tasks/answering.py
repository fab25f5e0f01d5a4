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
    """An answer, how sure the model was of it in nats, and what it would have said had it been sure enough."""

    answer: str
    sureness: float
    guess: str | None = None


@dataclass(frozen=True)
class Cited(Answered):
    """An answer and the passages that stood above the question, best first; none means that it is from memory."""

    passages: tuple[Citation, ...] = ()


def from_memory(reply: Answer, sure_from: float | None) -> Answered:
    """Return a reply, or that the model does not know where it is less sure than `sure_from`."""
    if sure_from is None or reply.sureness >= sure_from or is_abstention(reply.text):
        return Answered(reply.text, round(reply.sureness, 4))
    return Answered(ABSTENTION, round(reply.sureness, 4), reply.text)


def answer(
    ask: Callable[[str], Answer], retriever: Retriever, question: str, count: int, sure_from: float | None
) -> Cited:
    """Return what a model replies to a question with up to `count` passages above it.

    Args:
        ask: returns a model's reply to one user turn.
        retriever: finds the passages.
        question: as the user asked it.
        count: the most passages in the prompt.
        sure_from: how sure it has to be where no passage is found.
    """
    hits = retriever.find(question, count)
    reply = ask(with_context([chunk_text(hit.chunk) for hit in hits], question))
    told = from_memory(reply, None if hits else sure_from)
    return Cited(told.answer, told.sureness, told.guess, cite(hits, told.answer))


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
