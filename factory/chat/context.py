"""Passages in a prompt: how a chunk is shown, and the user turn that asks a question with some of them above it."""

from collections.abc import Sequence

from factory.rows import Chunk

# Of five prompts, each with one passage, this did best on questions kept for such trials (30 % right, the others
# 19-25 %); a second passage took one of them from 25 to 21 %.
PROMPT = "{passages}\n\nQuestion: {question}\nAnswer:"


LEAD, TAIL = PROMPT.removeprefix("{passages}").split("{question}")


def chunk_text(chunk: Chunk) -> str:
    """Return a chunk's text under its title and headings."""
    return f"{chunk_heading(chunk)}\n{chunk.text}"


def chunk_heading(chunk: Chunk) -> str:
    """Return a chunk's title and headings, outermost first."""
    return " > ".join([chunk.title, *chunk.heading_path])


def with_context(passages: Sequence[str], question: str) -> str:
    """Return the user turn that asks a question with passages above it; without any, the question itself."""
    return PROMPT.format(passages="\n\n".join(passages), question=question) if passages else question


def split_turn(turn: str) -> tuple[str, str]:
    """Return what stands above a user turn's question, empty if it is asked alone, and the question."""
    above, lead, question = turn.removesuffix(TAIL).rpartition(LEAD)
    return (above, question) if lead and turn.endswith(TAIL) else ("", turn)
