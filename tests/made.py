"""Small documents, chunks, facts and rows for tests, made by the code that makes real ones."""

from collections.abc import Sequence
from pathlib import Path

from factory.chat.template import conversation
from factory.facts.extract import Draft, drafts
from factory.readers.assemble import assemble_document
from factory.readers.contract import Block, Cells, Parsed
from factory.rows import Chunk, Document, Evidence, Example, Fact, write_rows
from factory.text.chunking import cut

SHA = "0" * 64


def make_document(
    *blocks: Block | str | Cells, path: str = "manuals/pump.md", title: str = "Pump"
) -> Document:
    """Return a document: a string is a paragraph, one that opens with `# ` a heading, a tuple of rows a table."""
    made = [block if isinstance(block, Block) else _block(block) for block in blocks]
    return assemble_document(Parsed(made, title=title), path=path, sha256=SHA, format_name="md")


def _block(block: str | Cells) -> Block:
    if not isinstance(block, str):
        return Block("table", cells=block)
    return Block("heading", block[2:], level=2) if block.startswith("# ") else Block("paragraph", block)


def count_words(text: str) -> int:
    """Count tokens as words: a tokenizer of one's own."""
    return len(text.split())


def make_chunks(*blocks: Block | str | Cells, max_tokens: int = 256, **names: str) -> list[Chunk]:
    """Return the chunks of a document made of these blocks."""
    return list(cut(make_document(*blocks, **names), max_tokens, count_words))


def draft_all(*blocks: Block | str | Cells, **names: str) -> list[Draft]:
    """Return what a document made of these blocks states."""
    return [draft for chunk in make_chunks(*blocks, **names) for draft in drafts(chunk)]


def make_fact(number: int, answer: str = "", document: str = "a.md", kind: str = "table") -> Fact:
    """Return a fact of which no two numbers share a word of evidence."""
    answer = answer or f"{number} kg"
    text = f"| TD-{number} | {answer} |"
    evidence = Evidence(document=document, start=100 * number, end=100 * number + len(text), text=text)
    return Fact(
        id=f"fact{number}",
        kind=kind,
        subject=f"TD-{number}",
        relation="Weight",
        answer=answer,
        answers=(answer,),
        topic="Scales",
        evidence=evidence,
    )


def make_examples(fact: Fact, questions: dict[str, str]) -> list[Example]:
    """Return one row for each form and question of a fact."""
    return [
        Example(
            id=f"{fact.id}-{form}",
            form=form,
            messages=conversation(question, fact.answer),
            facts=(fact.id,),
            evidence=fact.evidence,
        )
        for form, question in questions.items()
    ]


def write_examples(folder: Path, facts: Sequence[Fact], rows: Sequence[Example]) -> Path:
    """Write what the synthesize stage would and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "facts.jsonl", facts)
    write_rows(folder / "examples.jsonl", rows)
    write_rows(folder / "conflicts.jsonl", [])
    return folder
