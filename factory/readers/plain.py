"""Read plain text, logs and reStructuredText. Knows underlines, capitals, bullets and labels only."""

import re
from collections.abc import Iterator
from textwrap import dedent

import pypandoc

from factory.readers.contract import Block, Limits, Parsed
from factory.readers.html import html_blocks
from factory.readers.sniff import decode_text
from factory.rows import ElementKind
from factory.text.clean import clean_text

UNDERLINE = re.compile(r"^\s*(=|-|~|\*|#|_)\1{2,}\s*$")
BULLET = re.compile(r"^\s*(?:[-*+•‣◦▪–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")  # noqa: RUF001
LABEL = re.compile(r"^[A-Z][\w /&()'-]{0,40}:\s+\S|^[\w.-]+:\s+\S|^[\w.-]+ ?= ?\S")
LOG_LINE = re.compile(r"^\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|^\w{3}\s+\d{1,2} \d\d:\d\d:\d\d ")
NUMBERED = re.compile(r"^(\d{1,2}(?:\.\d{1,2})*)\.?\s+(?=[A-Z])")
MAX_HEADING_CHARS = 80
MAX_HEADING_WORDS = 10
# A line this much of the usual width was wrapped rather than ended.
WRAPPED_SHARE = 0.6
MIN_WIDTH, MAX_WIDTH = 40, 100


def read_text(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return the paragraphs, list items and headings of plain text."""
    return Parsed(text_blocks(clean_text(decode_text(data))))


def read_rst(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return the blocks of reStructuredText; its include directives read no other file."""
    text = clean_text(decode_text(data))
    page = pypandoc.convert_text(text, "html", format="rst", extra_args=["--sandbox", "--wrap=none"])
    return Parsed(html_blocks(page))


def text_blocks(text: str) -> list[Block]:
    """Return the blocks of plain text: blank lines, bullets and labels begin one, wrapped lines join."""
    paragraphs = [
        [line.rstrip() for line in dedent(paragraph.expandtabs(4)).split("\n") if line.strip()]
        for paragraph in re.split(r"\n(?:[ \t]*\n)+", text)
    ]
    paragraphs = [lines for lines in paragraphs if lines]
    width = _usual_width(paragraphs)
    blocks: list[Block] = []
    for number, lines in enumerate(paragraphs, 1):
        headings, rest = _split_headings(lines, after=paragraphs[number] if number < len(paragraphs) else [])
        blocks += [*headings, *_join_lines(rest, width)]
    return blocks


def _usual_width(paragraphs: list[list[str]]) -> int:
    lengths = sorted(len(line) for lines in paragraphs for line in lines)
    return max(MIN_WIDTH, min(lengths[len(lengths) * 9 // 10], MAX_WIDTH)) if lengths else 0


def _split_headings(lines: list[str], after: list[str]) -> tuple[list[Block], list[str]]:
    """Return the headings a paragraph begins with, and its other lines."""
    if len(lines) > 1 and UNDERLINE.match(lines[1]) and _is_short(lines[0]):
        return [Block("heading", lines[0], 1 if lines[1].strip()[0] in "=#*" else 2)], lines[2:]
    capitals = 0
    while capitals < len(lines) and _is_capitals(lines[capitals]):
        capitals += 1
    if capitals:
        return [Block("heading", " ".join(lines[:capitals]), 1)], lines[capitals:]
    numbered = NUMBERED.match(lines[0])
    if numbered and _is_short(lines[0]) and lines[0][-1] not in ".,;:!?" and _opens_section(lines, after):
        return [Block("heading", lines[0], numbered[1].count(".") + 2)], lines[1:]
    return [], lines


def _is_short(line: str) -> bool:
    return len(line) <= MAX_HEADING_CHARS and len(line.split()) <= MAX_HEADING_WORDS


def _is_capitals(line: str) -> bool:
    letters = sum(map(str.isalpha, line))
    return line.isupper() and _is_short(line) and letters > max(2, len(line) / 2) and line[-1] not in ".,;:!?"


def _opens_section(lines: list[str], after: list[str]) -> bool:
    """Whether text follows a numbered line, rather than the next item of a list or its own wrapped rest."""
    following = lines[1] if len(lines) > 1 else (after or [""])[0]
    return following[:1].isupper() and not NUMBERED.match(following)


def _join_lines(lines: list[str], width: int) -> Iterator[Block]:
    kind: ElementKind = "paragraph"
    texts: list[str] = []
    for line in lines:
        if UNDERLINE.match(line):
            continue
        begins = not texts or BULLET.match(line) or LABEL.match(line) or LOG_LINE.match(line)
        if texts and (begins or not _goes_on(texts[-1], line, width)):
            yield Block(kind, " ".join(texts))
            texts = []
        if not texts:
            kind = "list_item" if BULLET.match(line) else "paragraph"
        texts.append(BULLET.sub("", line) if not texts else line)
    if texts:
        yield Block(kind, " ".join(texts))


def _goes_on(before: str, line: str, width: int) -> bool:
    return line.startswith("  ") or line[0].islower() or len(before) >= WRAPPED_SHARE * width
