"""Read HTML as a flat run of texts, for pages too deep or broken for a tree. Knows tags, builds no tree."""

from html.parser import HTMLParser

from factory.readers.contract import Block

SKIPPED = ("script", "style", "template", "noscript", "title", "nav")  # of a head nothing else is text
HEADINGS = {f"h{level}": level for level in range(1, 7)}
TEXT_TAGS = "a abbr b bdi cite code data em font i kbd mark q s samp small span strong sub sup time tt u var"
INLINE = frozenset(("br", "img", "wbr", *TEXT_TAGS.split()))


class _TextCollector(HTMLParser):
    """Collects the text between block tags as paragraphs and headings."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._texts: list[str] = []
        self._skipping = 0
        self._level = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED:
            self._skipping += 1
        elif tag == "br":
            self._texts.append(" ")
        elif tag not in INLINE:
            self.flush()
            self._level = HEADINGS.get(tag, 0)

    def handle_endtag(self, tag: str) -> None:
        if tag in SKIPPED:
            self._skipping = max(self._skipping - 1, 0)
        elif tag not in INLINE:
            self.flush()
            self._level = 0

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self._texts.append(data)

    def flush(self) -> None:
        """End the block that is being collected."""
        text = " ".join("".join(self._texts).split())
        self._texts.clear()
        if text:
            self.blocks.append(Block("heading" if self._level else "paragraph", text, max(self._level, 1)))


def flat_blocks(text: str) -> list[Block]:
    """Return the texts of HTML in reading order, split at block tags, at any depth."""
    collector = _TextCollector()
    collector.feed(text)
    collector.close()
    collector.flush()
    return collector.blocks
