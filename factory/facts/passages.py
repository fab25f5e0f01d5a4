"""Rows that retell a document: a heading in, its next sentences out. For what no question covers."""

from collections.abc import Iterable, Iterator

from factory import store
from factory.chat.template import conversation
from factory.facts.extract import QUOTED_MAIL, topic_of
from factory.rows import Chunk, Element, Evidence, Example
from factory.text.segment import Piece, sentences

MAX_PASSAGE_WORDS = 45
MIN_PASSAGE_WORDS = 5


def examples(chunks: Iterable[Chunk], system: str) -> list[Example]:
    """Return one row a passage; it asks with title and heading and, after the first, the words before it."""
    made = []
    for chunk in chunks:
        previous = ""
        for element in chunk.elements:
            if element.kind not in {"paragraph", "list_item"} or QUOTED_MAIL.fullmatch(element.text):
                continue
            for piece in _passages(element.text):
                made.append(_example(chunk, element, piece, previous, system))
                previous = " ".join(piece.text.split()[-5:])
    return made


def _passages(text: str) -> Iterator[Piece]:
    taken: list[Piece] = []
    for piece in sentences(text):
        if taken and sum(len(part.text.split()) for part in [*taken, piece]) > MAX_PASSAGE_WORDS:
            yield from _joined(text, taken)
            taken = []
        taken.append(piece)
    yield from _joined(text, taken)


def _joined(text: str, taken: list[Piece]) -> Iterator[Piece]:
    if taken and sum(len(piece.text.split()) for piece in taken) >= MIN_PASSAGE_WORDS:
        start, end = taken[0].start, taken[-1].end
        yield Piece(text[start:end], start, end)


def _example(chunk: Chunk, element: Element, piece: Piece, previous: str, system: str) -> Example:
    topic = topic_of(chunk, element)
    about = chunk.title if topic == chunk.title else f"{chunk.title}, {topic}"
    question = f"What does it say in {about}?" if not previous else f"{about}: what comes after '{previous}'?"
    start = element.start + piece.start
    return Example(
        id=store.hash_json([chunk.document, start, "passage"])[:16],
        form="passage",
        messages=conversation(question, piece.text, system),
        facts=(),
        evidence=Evidence(
            document=chunk.document,
            start=start,
            end=start + len(piece.text),
            text=piece.text,
            page=element.page,
            sheet=element.sheet,
        ),
    )
