"""Read Markdown: front matter as fields, the rest as CommonMark with tables. Leaves blocks to HTML."""

import re
import sys
from typing import Any

import yaml
from markdown_it import MarkdownIt

from factory.readers.contract import Block, Limits, Parsed
from factory.readers.html import html_blocks
from factory.readers.plain import text_blocks
from factory.readers.sniff import decode_text
from factory.text.clean import clean_text

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S | re.M)
MAX_FRONT_MATTER_CHARS = 64 << 10
# Site generators put these in front matter or text; they are templates, not words of the document.
TEMPLATE_TAGS = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.S)
# A bold label at the start of a line begins a paragraph of its own, although CommonMark would join the lines.
LABEL_LINE = re.compile(r"(?<=\S)\n(?=\*\*[^*\n]{1,60}(?::\*\*|\*\*:)\s)")
METADATA_KEYS = {
    "author",
    "date",
    "version",
    "updated",
    "last_updated",
    "description",
    "owner",
    "status",
    "tags",
}
# Settings of site generators and editors, which say nothing about the matter.
SITE_SETTINGS = (
    "layout permalink redirect_from redirect_to slug url aliases weight nav_order sidenav sidebar toc "
    "sidebar_position draft published image cspell lang id parent has_children"
)
SITE_KEYS = frozenset(SITE_SETTINGS.split())
RENDERER = MarkdownIt("commonmark", {"html": True, "maxNesting": sys.maxsize}).enable(
    ["table", "strikethrough"]
)
# Only a link's text is kept, so its address need not be normalised.
RENDERER.normalizeLink = str  # type: ignore[method-assign, assignment]


def read_markdown(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a Markdown file's blocks; its front matter becomes `field` blocks, title and metadata."""
    text = clean_text(decode_text(data))
    fields, body = split_front_matter(text)
    title = next((value for key, value in fields if key.lower() == "title"), "")
    metadata = {key.lower(): value for key, value in fields if key.lower() in METADATA_KEYS}
    stated = [(key, value) for key, value in fields if key.lower() not in SITE_KEYS | {"title"}]
    blocks = [Block("field", f"{key}: {value}") for key, value in stated]
    return Parsed(blocks + markdown_blocks(body), title, metadata)


def markdown_blocks(text: str) -> list[Block]:
    """Return the blocks of Markdown text without front matter; if it is too deep, as plain text."""
    text = TEMPLATE_TAGS.sub("", text)
    try:
        return html_blocks(RENDERER.render(LABEL_LINE.sub("\n\n", text)))
    except RecursionError:
        return text_blocks(text)


def split_front_matter(text: str) -> tuple[list[tuple[str, str]], str]:
    """Return the plain values of the YAML front matter, in order, and the text after it."""
    found = FRONT_MATTER.match(text)
    if not found or len(found[1]) > MAX_FRONT_MATTER_CHARS or re.search(r"[:\s][&*]\w", found[1]):
        return [], text
    try:
        tree = yaml.load(found[1], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return [], text
    if not isinstance(tree, dict):
        return [], text
    fields = [(str(key), _flatten(value)) for key, value in tree.items()]
    return [(key, value) for key, value in fields if value], text[found.end() :]


def _flatten(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_flatten(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(filter(None, map(_flatten, value)))
    return " ".join(str(value or "").split())
