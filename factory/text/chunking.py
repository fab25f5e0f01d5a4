"""Documents cut at their headings into pieces that fit a token budget, and such a piece into smaller ones.

Knows elements, and a function that counts tokens; no tokenizer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby

from factory import store
from factory.rows import Chunk, Document, Element
from factory.text.segment import Piece, sentences, trim

LONGEST_TOKEN = 16  # characters; what is longer is counted in parts, as counting takes time


def cut(document: Document, max_tokens: int, count: Callable[[str], int]) -> Iterator[Chunk]:
    """Yield a document's chunks: sections first, then runs of elements within the budget.

    A heading stays with what follows it; a table keeps its header row in every piece; a paragraph that is too
    long is cut between sentences, a sentence between words, and a word where it must be.
    """
    body = [element for element in document.elements if element.kind != "heading"]
    number = 0
    for (path, _), section in groupby(body, key=lambda element: (element.heading_path, element.sheet)):
        pieces = [piece for element in section for piece in _fit(element, max_tokens, count)]
        for run in _runs(pieces, max_tokens, count):
            yield _chunk(document, number, path, run, count)
            number += 1


def cut_smaller(chunk: Chunk, max_tokens: int, count: Callable[[str], int]) -> Iterator[Chunk]:
    """Yield the pieces of a chunk that fit a smaller budget, as `cut` would have made them."""
    pieces = [piece for element in chunk.elements for piece in _fit(element, max_tokens, count)]
    for number, run in enumerate(_runs(pieces, max_tokens, count)):
        text = _show(run)
        yield chunk.model_copy(
            update={
                "id": store.hash_json([chunk.id, number, text])[:12],
                "text": text,
                "start": run[0].start,
                "end": run[-1].end,
                "num_tokens": count(text),
                "elements": tuple(run),
            }
        )


def leave_out(chunk: Chunk, stretches: Sequence[tuple[int, int]]) -> Chunk:
    """Return a chunk without the elements' parts, of tables whole rows, that overlap stretches of its document."""
    kept = [part for element in chunk.elements for part in _without(element, sorted(stretches))]
    return chunk if kept == list(chunk.elements) else chunk.model_copy(update={"elements": tuple(kept)})


def smallest_pieces(element: Element) -> Iterable[Piece]:
    """Return an element's sentences, or a table's lines, with their places in its text."""
    return _rows_of(element.text) if element.cells else sentences(element.text)


def _rows_of(text: str) -> Iterator[Piece]:
    lines = text.split("\n")
    for line, start in zip(lines, accumulate((len(line) + 1 for line in lines), initial=0), strict=False):
        yield Piece(line, start, start + len(line))


def _without(element: Element, stretches: Sequence[tuple[int, int]]) -> Iterator[Element]:
    hidden = [(start, end) for start, end in stretches if start < element.end and element.start < end]
    if not hidden:
        yield element
    elif not element.cells:
        begins = [element.start, *accumulate((end for _, end in hidden), max)]
        for begin, end in zip(begins, [*(start for start, _ in hidden), element.end], strict=True):
            part = trim(element.text, max(0, begin - element.start), max(0, end - element.start))
            if part.text:
                place = {"start": element.start + part.start, "end": element.start + part.end}
                yield element.model_copy(update={"text": part.text, **place})
    elif _has_whole_lines(element):
        yield from _without_rows(element, hidden)


def _without_rows(table: Element, hidden: Sequence[tuple[int, int]]) -> Iterator[Element]:
    """Yield runs of a table's rows between those that overlap stretches, each with the header."""
    header, *body = table.cells or ()

    def is_hidden(row: tuple[tuple[int, int], tuple[str, ...]]) -> bool:
        return any(start < row[0][1] and row[0][0] < end for start, end in hidden)

    for left_out, run in groupby(zip(_lines(table), body, strict=True), key=is_hidden):
        places, rows = zip(*run, strict=True)
        if not left_out:
            yield _table_piece(table, places[0][0], places[-1][1], (header, *rows))


def _lines(table: Element) -> list[tuple[int, int]]:
    """Return where the line of each row below the header begins and ends in the document."""
    lines = table.text.split("\n")[1 - len(table.cells or ()) :]
    start = table.end - len("\n".join(lines))
    begins = accumulate((len(line) + 1 for line in lines[:-1]), initial=start)
    return [(begin, begin + len(line)) for begin, line in zip(begins, lines, strict=True)]


def _fit(element: Element, max_tokens: int, count: Callable[[str], int]) -> Iterator[Element]:
    if count(_show([element])) <= max_tokens:
        yield element
    elif element.cells and len(element.cells) > 1 and _has_whole_lines(element):
        yield from _split_table(element, max_tokens, count)
    else:
        yield from _cut(element, Piece(element.text, 0, 0), max_tokens, count)


def _split_table(element: Element, max_tokens: int, count: Callable[[str], int]) -> Iterator[Element]:
    """Yield runs of rows that fit under the header; a row that does not is cut between its cells."""
    header, *body = element.cells or ()
    taken: list[tuple[str, ...]] = []
    start = element.start
    for row, (place, _) in zip(body, _lines(element), strict=True):
        if taken and count(_render([header, *taken, row])) > max_tokens:
            yield _table_piece(element, start, place - 1, (header, *taken))
            taken = []
        if count(_render([header, row])) > max_tokens:
            yield from _split_row(element, (header, row), place, max_tokens, count)
        else:
            start = start if taken else place
            taken.append(row)
    if taken:
        yield _table_piece(element, start, element.end, (header, *taken))


def _split_row(
    element: Element, rows: Sequence[Sequence[str]], place: int, max_tokens: int, count: Callable[[str], int]
) -> Iterator[Element]:
    """Yield runs of a row's cells, each with the row's key; a cell that does not fit is cut like a paragraph.

    Args:
        element: the table.
        rows: its header and the row.
        place: where the row's line begins in the document; a line is its cells with ` | ` between them.
        max_tokens: the budget.
        count: counts the tokens of a text.
    """
    row = rows[1]
    starts = list(accumulate((len(text) + 3 for text in row[:-1]), initial=place + 2))
    runs: list[list[int]] = [[]]
    for column in range(len(row)):
        if runs[-1] and count(_render(_columns(rows, [*runs[-1], column]))) > max_tokens:
            runs.append([])
        runs[-1].append(column)
    for run in runs:
        start, end = starts[run[0]], starts[run[-1]] + len(row[run[-1]])
        piece = _table_piece(element, start, end, _columns(rows, run))
        if count(_render(piece.cells)) > max_tokens:
            yield from _cut(element, Piece(piece.text, start - element.start, 0), max_tokens, count)
        elif piece.text:
            yield piece


def _columns(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Return the chosen columns of rows, the key column always first."""
    return tuple(tuple(row[column] for column in (0, *filter(None, columns))) for row in rows)


def _table_piece(element: Element, start: int, end: int, cells: tuple[tuple[str, ...], ...]) -> Element:
    text = element.text[start - element.start : end - element.start]
    return element.model_copy(update={"text": text, "start": start, "end": end, "cells": cells})


def _cut(element: Element, part: Piece, max_tokens: int, count: Callable[[str], int]) -> Iterator[Element]:
    """Yield a part of an element (places within it) in pieces that fit, without cells."""
    for piece in _split_text(part.text, max_tokens, count):
        start = element.start + part.start + piece.start
        yield element.model_copy(
            update={"text": piece.text, "start": start, "end": start + len(piece.text), "cells": None}
        )


def _split_text(text: str, max_tokens: int, count: Callable[[str], int]) -> Iterator[Piece]:
    units = [part for piece in sentences(text) for part in _split_words(piece, max_tokens, count)]
    start = end = None
    for unit in units:
        if start is not None and end is not None and count(text[start : unit.end]) > max_tokens:
            yield Piece(text[start:end], start, end)
            start = None
        start = unit.start if start is None else start
        end = unit.end
    if start is not None and end is not None:
        yield Piece(text[start:end], start, end)


def _split_words(piece: Piece, max_tokens: int, count: Callable[[str], int]) -> Iterator[Piece]:
    text, offset = piece.text, 0
    while len(text) > max_tokens * LONGEST_TOKEN or count(text) > max_tokens:
        size = min(len(text), max_tokens * LONGEST_TOKEN)
        while size > 1 and count(text[:size]) > max_tokens:
            size = max(1, size * 3 // 4)
        space = text.rfind(" ", 1, size)
        size = space if space > 0 else size
        yield Piece(text[:size], piece.start + offset, piece.start + offset + size)
        skipped = len(text[size:]) - len(text[size:].lstrip())
        offset += size + skipped
        text = text[size + skipped :]
    if text:
        yield Piece(text, piece.start + offset, piece.end)


def _runs(pieces: Iterable[Element], max_tokens: int, count: Callable[[str], int]) -> Iterator[list[Element]]:
    run: list[Element] = []
    for piece in pieces:
        if run and count(_show([*run, piece])) > max_tokens:
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _chunk(
    document: Document, number: int, path: tuple[str, ...], run: list[Element], count: Callable[[str], int]
) -> Chunk:
    text = _show(run)
    return Chunk(
        id=f"{store.hash_json([document.path, number, text])[:12]}",
        document=document.path,
        title=document.title,
        heading_path=path,
        text=text,
        start=run[0].start,
        end=run[-1].end,
        num_tokens=count(text),
        elements=tuple(run),
        metadata=document.metadata,
    )


def _show(run: Iterable[Element]) -> str:
    """Return the text of a run of elements; a piece of a table is shown with its header."""
    return "\n\n".join(_render(piece.cells) if _is_part(piece) else piece.text for piece in run)


def _is_part(element: Element) -> bool:
    return bool(element.cells) and _num_extra_lines(element) < 0


def _has_whole_lines(table: Element) -> bool:
    """Tell whether a table's rows stand in its text, a line each; those of a row cut between its cells do not."""
    extra = _num_extra_lines(table)
    return extra == 1 or (extra == -1 and table.text.startswith("| "))


def _num_extra_lines(table: Element) -> int:
    """Return how many lines a table's text has more than rows: 1 for its ruling, -1 for a piece without its header."""
    return len(table.text.split("\n")) - len(table.cells or ())


def _render(cells: Iterable[Sequence[str]] | None) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in cells or ())
