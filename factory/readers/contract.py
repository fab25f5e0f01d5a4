"""What every reader takes and returns. Knows blocks and limits, no file format and no third-party parser."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from factory.rows import ElementKind, ReasonCode

Cells = tuple[tuple[str, ...], ...]


class ReadError(Exception):
    """A file cannot be read: `reason` is its quarantine code, `detail` what was found and what to do."""

    def __init__(self, reason: ReasonCode, detail: str) -> None:
        """Keep both parts; the message joins them."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Limits:
    """What one source file may cost; passed to every reader."""

    max_file_bytes: int = 50 << 20
    max_pages: int = 2000
    max_archive_depth: int = 2
    max_archive_files: int = 10_000
    max_archive_ratio: int = 100
    max_archive_bytes: int = 500 << 20
    drop_instructions: bool = False


@dataclass(frozen=True)
class Block:
    """One piece of a file in reading order. `level` counts for headings only: 1 is the outermost.

    `cells` is set for tables only, the header row first; a table's `text` is rendered from it.
    """

    kind: ElementKind
    text: str = ""
    level: int = 1
    page: int | None = None
    sheet: str | None = None
    cells: Cells | None = None


@dataclass(frozen=True)
class Member:
    """A file inside a container. `refusal` is set when it must not be read."""

    name: str
    data: bytes = b""
    refusal: ReadError | None = None


@dataclass(frozen=True)
class Parsed:
    """What a reader made of a file: its blocks, what it says about itself, and the files inside it."""

    blocks: Sequence[Block] = ()
    title: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    members: Sequence[Member] = ()
