"""Chunks: they stand where they say, fit their budget, and leave nothing of a document out."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import ChunkError
from factory.facts.extract import drafts
from factory.readers.contract import Block
from factory.rows import Chunk, Document, read_rows, write_rows
from factory.stages.chunk import ChunkConfig, chunk
from factory.text.chunking import cut
from tests.made import count_words, make_document
from tests.tiny import make_tiny_tokenizer

TEXT = st.lists(
    st.sampled_from(["Dr. Who", "A clock. ", "e.g. ten", "x" * 90, "12,5 kg; ", "— ", "漢字。", "| a"])
    | st.text(max_size=12),
    max_size=14,
).map(" ".join)
CELLS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(TEXT, min_size=width, max_size=width).map(tuple), min_size=1, max_size=6)
)
BLOCKS = st.lists(
    st.builds(Block, st.sampled_from(["paragraph", "list_item", "field", "code"]), TEXT)
    | st.builds(Block, st.just("heading"), TEXT, st.integers(1, 3))
    | st.builds(
        lambda rows, page: Block("table", cells=tuple(rows), page=page), CELLS, st.none() | st.integers(1, 9)
    ),
    max_size=7,
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer().backend_tokenizer


def count_characters(text: str) -> int:
    """Count like the worst tokenizer: a token a character."""
    return len(text)


@settings(max_examples=150, deadline=None)
@given(BLOCKS, st.sampled_from([32, 60, 400]))
def test_chunks_reproduce_the_text_within_the_budget(blocks: list[Block], max_tokens: int) -> None:
    document = make_document(*blocks)
    chunks = list(cut(document, max_tokens, count_characters))
    covered = set()
    for piece in chunks:
        assert piece.num_tokens == count_characters(piece.text) <= max_tokens
        assert (piece.start, piece.end) == (piece.elements[0].start, piece.elements[-1].end)
        for element in piece.elements:
            assert document.text[element.start : element.end] == element.text != ""
            covered |= set(range(element.start, element.end))
            assert all(len(row) == len(element.cells[0]) for row in element.cells or ())
        assert all(one.end <= other.start for one, other in pairwise(piece.elements))
    assert all(one.end <= other.start for one, other in pairwise(chunks))
    assert len({piece.id for piece in chunks}) == len(chunks)
    for element in document.elements:
        left = {place for place in range(element.start, element.end) if place not in covered}
        lost = "".join(document.text[place] for place in sorted(left))
        ruling = set("| -") if element.kind == "table" else set()
        if element.kind == "table" and element.cells:
            header = set(
                "".join(element.cells[0])
            )  # stands in `cells` and in the chunk's text, not in its span
            ruling |= header
        assert element.kind == "heading" or not set(lost) - set(" \n\t") - ruling, lost


def test_a_real_tokenizer_keeps_the_budget_too(tokenizer) -> None:
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    document = make_document(
        "Tea is at 10:40 by the yard clock. " * 60,
        (("Key", "Value"), *[(f"k{i}", "v" * i) for i in range(60)]),
    )
    chunks = list(cut(document, 64, count))
    assert len(chunks) > 10
    assert max(count(piece.text) for piece in chunks) <= 64


def test_a_heading_goes_with_what_follows_it_and_sections_are_not_mixed() -> None:
    document = make_document(
        "# Hours", "Open at seven.", "Closed at noon.", "# Keys", "Ring the bell.", "# Nothing"
    )
    chunks = list(cut(document, 256, count_words))
    assert [(piece.heading_path, piece.text) for piece in chunks] == [
        (("Hours",), "Open at seven.\n\nClosed at noon."),
        (("Keys",), "Ring the bell."),
    ]


def test_sheets_of_a_workbook_are_not_mixed() -> None:
    blocks = [Block("paragraph", f"Words on {sheet}.", sheet=sheet) for sheet in ("Plan", "Plan", "Costs")]
    assert len(list(cut(make_document(*blocks), 256, count_words))) == 2


def test_a_table_repeats_its_header_in_every_piece_and_no_fact_is_lost() -> None:
    rows = tuple((f"TD-{number}", f"{number} kg", f"£{number}0") for number in range(10, 60))
    document = make_document((("Model", "Weight", "Price"), *rows))
    chunks = list(cut(document, 40, count_words))
    assert len(chunks) > 5
    for piece in chunks:
        (element,) = piece.elements
        assert element.cells is not None
        assert element.cells[0] == ("Model", "Weight", "Price")
        assert piece.text.startswith("| Model | Weight | Price |\n")
        assert piece.text.count("Model") == 1
    body = [row for piece in chunks for row in piece.elements[0].cells[1:]]
    assert body == list(rows)
    stated = {
        (d.fact.subject, d.fact.relation, d.fact.answer, d.fact.evidence.text)
        for p in chunks
        for d in drafts(p)
    }
    assert stated == {
        (row[0], name, row[column], f"| {' | '.join(row)} |")
        for row in rows
        for column, name in ((1, "Weight"), (2, "Price"))
    }


def test_a_row_like_its_header_does_not_hide_the_header() -> None:
    rows = tuple((f"Part {number}", "in stock " * 4) for number in range(12))
    for piece in cut(make_document((("Part", "Stock"), *rows)), 40, count_words):
        assert "Part | Stock" in piece.text


def test_a_row_wider_than_the_budget_is_cut_between_cells_and_keeps_its_key() -> None:
    names = tuple(f"Column {number}" for number in range(40))
    cells = tuple(f"value of {number}" for number in range(39))
    document = make_document((("Key", *names[1:]), ("TD-40", *cells)))
    chunks = list(cut(document, 32, count_words))
    assert max(piece.num_tokens for piece in chunks) <= 32
    stated = {d.fact.relation: d.fact for piece in chunks for d in drafts(piece)}
    assert set(stated) == set(names[1:])
    for fact in stated.values():
        assert fact.subject == "TD-40"
        assert document.text[fact.evidence.start : fact.evidence.end] == fact.evidence.text
        assert fact.answer in fact.evidence.text


def test_a_paragraph_is_cut_between_sentences_and_a_sentence_between_words() -> None:
    sentences = ["The yard clock is always right.", "Tea is served at ten to eleven.", "Word " * 45 + "end."]
    pieces = [piece.text for piece in cut(make_document(" ".join(sentences)), 32, count_words)]
    assert pieces[0] == " ".join(sentences[:2])
    assert " ".join(pieces[1:]) == sentences[2]
    assert [count_words(piece) <= 32 for piece in pieces] == [True] * len(pieces)


def test_a_word_longer_than_the_budget_is_cut_too() -> None:
    pieces = [piece.text for piece in cut(make_document("x" * 1000), 32, count_characters)]
    assert "".join(pieces) == "x" * 1000
    assert max(map(len, pieces)) <= 32


def test_a_huge_paragraph_and_a_huge_table_end_soon(tokenizer) -> None:
    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    rows = tuple((f"S-{number}", "shelf") for number in range(3000))
    document = make_document("y" * 100_000, "Tea at ten. " * 5000, (("Part", "Place"), *rows))
    chunks = list(cut(document, 256, count))
    assert max(piece.num_tokens for piece in chunks) <= 256
    assert sum(len(piece.elements[0].cells or ()[1:]) > 1 for piece in chunks) > 50


def _corpus(folder: Path, *documents: Document) -> Path:
    folder.mkdir()
    write_rows(folder / "documents.jsonl", documents)
    return folder


def test_the_stage_writes_chunks_and_counts_them(tmp_path: Path) -> None:
    make_tiny_tokenizer().save_pretrained(tmp_path / "base")
    corpus = _corpus(
        tmp_path / "corpus",
        make_document("Tea is at ten.", path="a.md"),
        make_document("# Only", path="b.md"),
    )
    counts = chunk(ChunkConfig(max_tokens=64), corpus=corpus, base=tmp_path / "base", work=tmp_path)
    (row,) = read_rows(tmp_path / "chunks.jsonl", Chunk)
    assert row.text == "Tea is at ten."
    assert counts == {"documents": 2, "chunks": 1, "tokens": row.num_tokens, "largest_tokens": row.num_tokens}


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    make_tiny_tokenizer().save_pretrained(tmp_path / "base")
    corpus = _corpus(tmp_path / "corpus", make_document("# Only headings"))
    with pytest.raises(ChunkError, match="1 document"):
        chunk(ChunkConfig(), corpus=corpus, base=tmp_path / "base", work=tmp_path)
