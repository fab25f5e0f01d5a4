"""Chunk: cut documents at their headings into pieces that fit a token budget of the base's tokenizer."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from factory.errors import ChunkError
from factory.rows import Document, read_rows, write_rows
from factory.text.chunking import cut

CODE_VERSION = 3


class ChunkConfig(BaseModel):
    """How large a chunk may be: `max_tokens` of the base's own tokenizer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(default=256, ge=32, le=8192)


def chunk(config: ChunkConfig, *, corpus: Path, base: Path, work: Path) -> dict[str, Any]:
    """Write `chunks.jsonl` from a corpus and return its counts.

    Raises:
        ChunkError: the corpus holds no text.
    """
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    documents = list(read_rows(corpus / "documents.jsonl", Document))
    chunks = [piece for document in documents for piece in cut(document, config.max_tokens, count)]
    if not chunks:
        raise ChunkError(
            f"The corpus holds {len(documents)} document(s) but no text: check the quarantine list"
        )
    write_rows(work / "chunks.jsonl", chunks)
    return {
        "documents": len(documents),
        "chunks": len(chunks),
        "tokens": sum(piece.num_tokens for piece in chunks),
        "largest_tokens": max(piece.num_tokens for piece in chunks),
    }
