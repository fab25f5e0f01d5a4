"""Retrieval for the untrained baseline: BM25 over the chunks, the best ones put into the prompt."""

from collections.abc import Sequence

import bm25s

from factory.rows import Chunk

# Of five prompts, each with one passage, this did best on questions kept for such trials (30 % right, the others
# 19-25 %); a second passage took one of them from 25 to 21 %.
PROMPT = "{passages}\n\nQuestion: {question}\nAnswer:"


class Index:
    """A BM25 index over texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Build the index in memory; there must be a text."""
        self._size = len(texts)
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)

    def find(self, question: str, count: int) -> list[tuple[int, float]]:
        """Return the numbers of the best texts with their scores, best first; a score of 0 shares no word."""
        query = bm25s.tokenize(question, stopwords="en", show_progress=False)
        found, scores = self._index.retrieve(query, k=min(count, self._size), show_progress=False)
        return [(int(number), float(score)) for number, score in zip(found[0], scores[0], strict=True)]


class Retriever:
    """A BM25 index over chunk texts with their titles and headings."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        """Build the index in memory."""
        self._texts = [chunk_text(chunk) for chunk in chunks]
        self._index = Index(self._texts)

    def search(self, question: str, count: int) -> list[str]:
        """Return the texts of the best chunks, best first."""
        return [self._texts[number] for number, _ in self._index.find(question, count)]

    def prompt(self, question: str, count: int) -> str:
        """Return the user turn that asks the question with its best passages above it."""
        return PROMPT.format(passages="\n\n".join(self.search(question, count)), question=question)


def chunk_text(chunk: Chunk) -> str:
    """Return a chunk's text under its title and headings."""
    return " > ".join([chunk.title, *chunk.heading_path]) + "\n" + chunk.text
