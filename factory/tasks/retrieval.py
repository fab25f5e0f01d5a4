"""Retrieval: the chunks nearest to a question, by BM25 and, where an encoder is given, by meaning as well.

Knows chunks and words; not who answers with what it finds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer

from factory.chat.context import chunk_heading, chunk_text, with_context
from factory.errors import UsageError
from factory.rows import Chunk, read_rows
from factory.text import versions
from factory.text.chunking import smallest_pieces

BESIDE = 1  # sentence or row before and after the one that is looked at
RANK_OFFSET = 60  # of reciprocal rank fusion, as in Cormack et al., SIGIR 2009
Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Hit:
    """A chunk that was found; scores can be compared within one search only."""

    chunk: Chunk
    score: float


class Index:
    """A BM25 index over texts, by the stems of English words.

    `k1` and `b` are Anserini's (Yang et al., JDIQ 2018): passages are short, so their length counts little.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Build the index in memory; there must be a text."""
        self._size = len(texts)
        self._index = bm25s.BM25(k1=0.9, b=0.4)
        self._index.index(_stems(texts), show_progress=False)

    def find(self, question: str, count: int) -> list[tuple[int, float]]:
        """Return the numbers of the best texts with their scores, best first; a score of 0 shares no word."""
        found, scores = self._index.retrieve(
            _stems([question]), k=min(count, self._size), show_progress=False
        )
        return [(int(number), float(score)) for number, score in zip(found[0], scores[0], strict=True)]


def _stems(texts: Sequence[str]) -> Any:
    stemmer = Stemmer.Stemmer("english")  # one a call: two threads may not use the same
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)


class Retriever:
    """An index over chunks with their titles and headings: BM25's, fused with an encoder's ranks if there is one.

    BM25 ranks a chunk by its best sentence or row with the ones beside it (MaxP, Dai & Callan, SIGIR 2019): what else
    stands in it says nothing against it.

    Documents that a newer version replaces are left out, as they are in training.
    """

    def __init__(self, chunks: Sequence[Chunk], embed: Embed | None = None) -> None:
        """Build the index in memory; `embed` returns a vector at unit length for each text."""
        self._embed = embed
        self._chunks, _ = versions.split(chunks)
        windows = [_windows(chunk) for chunk in self._chunks]
        self._owners = [number for number, texts in enumerate(windows) for _ in texts]
        self._most = max(map(len, windows))
        self._index = Index([text for texts in windows for text in texts])
        self._vectors = np.asarray(embed([chunk_text(chunk) for chunk in self._chunks])) if embed else None

    def find(self, question: str, count: int) -> list[Hit]:
        """Return the best chunks, best first; without an encoder none that shares no word with the question."""
        ranked = len(self._chunks) if self._embed else count
        found = self._rank(question, ranked)
        if self._embed:
            near = np.asarray(self._vectors) @ np.asarray(self._embed([question])[0])
            found = fuse([number for number, _ in found], np.argsort(-near, kind="stable").tolist())
        return [Hit(self._chunks[number], score) for number, score in found[:count]]

    def _rank(self, question: str, count: int) -> list[tuple[int, float]]:
        """Return the numbers of at least so many chunks, if as many share a word, by their best windows, best first."""
        best: dict[int, float] = {}
        for number, score in self._index.find(question, count * self._most):
            if score > 0:
                best.setdefault(self._owners[number], score)
        return list(best.items())

    def prompt(self, question: str, count: int) -> str:
        """Return the user turn that asks the question with its best passages above it, or alone if there are none."""
        return with_context([chunk_text(hit.chunk) for hit in self.find(question, count)], question)


def _windows(chunk: Chunk) -> list[str]:
    """Return each sentence or row of a chunk with those beside it, below the chunk's title and headings."""
    told = [
        piece.text for element in chunk.elements for piece in smallest_pieces(element) if piece.text.strip()
    ]
    runs = [told[max(0, place - BESIDE) : place + BESIDE + 1] for place in range(len(told))] or [[]]
    return ["\n".join([chunk_heading(chunk), *run]) for run in runs]


def fuse(*rankings: Sequence[int]) -> list[tuple[int, float]]:
    """Return what is ranked anywhere with the sum of its reciprocal ranks, best first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (RANK_OFFSET + rank)
    return sorted(scores.items(), key=lambda row: (-row[1], row[0]))


def read_chunks(folder: Path) -> list[Chunk]:
    """Return the chunks of a run, of which its folder, its chunks or its bundle may be named.

    Raises:
        UsageError: there are none.
    """
    for place in (folder, folder / "chunks", folder.resolve().parent / "chunks"):
        if (place / "chunks.jsonl").is_file() and (found := list(read_rows(place / "chunks.jsonl", Chunk))):
            return found
    raise UsageError(
        f"{str(folder)!r} holds no chunks.jsonl with passages: name a run's chunks folder, like build/quickstart/chunks"
    )
