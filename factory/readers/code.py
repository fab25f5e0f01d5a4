"""Read source code: a `code` block a top-level piece, comments and docstrings kept. Runs nothing."""

from pathlib import PurePosixPath

from factory.readers.contract import Block, Limits, Parsed
from factory.readers.sniff import decode_text
from factory.text.clean import clean_lines

CLOSERS = tuple(")]}>")
CONTINUATIONS = ("else", "elif", "except", "finally", "catch", "end", "fi", "done")
MAX_LINES = 80
MIN_LINES = 4


def read_code(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a heading with the file's name and its top-level pieces in order."""
    title = PurePosixPath(name.rsplit("!/", 1)[-1]).name
    pieces = split_code(clean_lines(decode_text(data)))
    blocks = [Block("code", piece) for piece in pieces]
    return Parsed([Block("heading", title), *blocks] if blocks else [], title)


def split_code(text: str) -> list[str]:
    """Return runs of lines cut at blank lines before an unindented line; short neighbours stay together."""
    pieces: list[list[str]] = [[]]
    for line in text.split("\n"):
        current = pieces[-1]
        if (current and not current[-1] and _starts_piece(line) and len(current) > MIN_LINES) or len(
            current
        ) >= MAX_LINES:
            pieces.append([])
        if line or pieces[-1]:
            pieces[-1].append(line)
    return [joined for piece in pieces if (joined := "\n".join(piece).strip("\n"))]


def _starts_piece(line: str) -> bool:
    return bool(line) and not line[0].isspace() and not line.startswith(CLOSERS + CONTINUATIONS)
