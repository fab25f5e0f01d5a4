"""Which documents a newer version replaces, told from titles and version lines; they are neither taught nor found."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from factory.rows import Chunk
from factory.text import normalize

VERSION = re.compile(r"\b(?:version|edition|issue)\s+(\d+)", re.IGNORECASE)
REPLACED = re.compile(
    r"\b(?:replaces|supersedes)\b[^.\n]{0,40}?\b(?:version|edition|issue)\s+(\d+)", re.IGNORECASE
)
CODE = re.compile(r"\b[A-Z]{1,5}-\d+\b")
HEAD_CHARACTERS = 600
NOISE = {"version", "edition", "issue", "v", "draft", "final", "new", "old", "valid", "from", "and"}


@dataclass(frozen=True)
class Head:
    """What the beginning of a document says of its version; 0 means nothing."""

    path: str
    words: frozenset[str]
    codes: frozenset[str]
    version: int
    replaces: int


def split(chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[str]]:
    """Return the chunks of documents in force, and the paths of documents that a newer version replaces.

    A document is replaced when another one says that it replaces a version of that number, and the two share
    a document code (`IT-02`) or the words of the shorter title.
    """
    texts: dict[str, str] = defaultdict(str)
    titles: dict[str, str] = {}
    for chunk in chunks:
        texts[chunk.document] += chunk.text + "\n"
        titles[chunk.document] = chunk.title
    heads = [_head(path, titles[path], text) for path, text in texts.items()]
    stale = {old.path for new in heads for old in heads if _replaces(new, old)}
    return [chunk for chunk in chunks if chunk.document not in stale], sorted(stale)


def _head(path: str, title: str, text: str) -> Head:
    head = f"{title}\n{text[:HEAD_CHARACTERS]}"
    version, replaces = VERSION.search(head), REPLACED.search(head)
    words = (word for word in normalize.tokens(title) if word.isalpha() and word not in NOISE)
    return Head(
        path,
        frozenset(words),
        frozenset(CODE.findall(title)),
        int(version.group(1)) if version else 0,
        int(replaces.group(1)) if replaces else 0,
    )


def _replaces(new: Head, old: Head) -> bool:
    if new.path == old.path or not new.replaces or old.version != new.replaces or new.version <= old.version:
        return False
    shorter, longer = sorted((new.words, old.words), key=len)
    return bool(new.codes & old.codes) or (len(shorter) > 1 and shorter <= longer)
