"""What an answer may come from: training rows and passages that say something similar. It proves no origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from factory.chat.context import chunk_heading, chunk_text, split_turn
from factory.facts import practice
from factory.rows import Chunk, Example, Fact, R, read_rows
from factory.tasks.retrieval import Index

LABEL = "similar text, not a citation"
# A fact has about ten rows, of which one is shown.
ROWS_A_FACT = 10


@dataclass(frozen=True)
class Similar:
    """One text near a question and its answer.

    `source` is the document's path in the corpus, or the form of a row that no document stands behind; `score` is
    BM25's, which can be compared within one list only.
    """

    kind: Literal["training row", "passage"]
    source: str
    heading: str
    text: str
    score: float
    label: str = LABEL


class SimilarTexts:
    """The training rows and passages of one run, ready to be searched."""

    def __init__(self, examples: Sequence[Example], facts: Sequence[Fact], chunks: Sequence[Chunk]) -> None:
        """Build the indexes in memory; `facts` give rows their headings."""
        topics = {fact.id: fact.topic for fact in facts}
        self._rows = [_row(example, topics) for example in examples]
        self._groups = [example.facts or (example.id,) for example in examples]
        self._passages = [
            Similar("passage", chunk.document, chunk_heading(chunk), chunk.text, 0.0) for chunk in chunks
        ]
        self._row_index = Index([row.text for row in self._rows]) if self._rows else None
        self._passage_index = Index([chunk_text(chunk) for chunk in chunks]) if chunks else None

    def rows(self, question: str, answer: str, count: int = 3) -> list[Similar]:
        """Return the nearest training rows, best first, one a fact; none that shares no word."""
        found = self._row_index.find(f"{question} {answer}", count * ROWS_A_FACT) if self._row_index else []
        first: dict[tuple[str, ...], Similar] = {}
        for number, score in found:
            if score > 0:
                first.setdefault(self._groups[number], _scored(self._rows[number], score))
        return list(first.values())[:count]

    def passages(self, question: str, answer: str, count: int = 3) -> list[Similar]:
        """Return the nearest passages of the documents, best first; none that shares no word."""
        index = self._passage_index
        found = index.find(f"{question} {answer}", count) if index else []
        return [_scored(self._passages[number], score) for number, score in found if score > 0]


def open_similar(bundle: Path) -> SimilarTexts:
    """Return what a bundle was made from, read from the run's folder around it; empty where that is gone.

    Rows below altered and bundled passages say what no document says, and are left out.

    Raises:
        ArtifactError: a file of the run is damaged.
    """
    run = bundle.resolve().parent
    return SimilarTexts(
        [
            row
            for row in _read(run / "dataset" / "train.jsonl", Example)
            if not row.version and row.form != practice.FORM
        ],
        _read(run / "dataset" / "facts.jsonl", Fact),
        _read(run / "chunks" / "chunks.jsonl", Chunk),
    )


def _read(path: Path, row_type: type[R]) -> list[R]:
    return list(read_rows(path, row_type)) if path.is_file() else []


def _row(example: Example, topics: dict[str, str]) -> Similar:
    source = example.evidence.document if example.evidence else example.form
    heading = next((topics[fact] for fact in example.facts if fact in topics), "")
    spoken = [split_turn(message.content)[1] for message in example.messages if message.role != "system"]
    return Similar("training row", source, heading, "\n".join(spoken), 0.0)


def _scored(found: Similar, score: float) -> Similar:
    return Similar(found.kind, found.source, found.heading, found.text, round(score, 3))
