"""Rows that retell a document: verbatim, in order, with their place in it."""

from factory.facts import passages
from tests.made import make_chunks, make_document

BLOCKS = (
    "# Hours",
    "The workshop opens at seven. Tea is at ten. " + "A bell rings at noon and again at five o'clock. " * 8,
    "Short one.",
    (("Day", "Hours"), ("Monday", "8")),
    "# Mail",
    "On Mon, 2 Mar 2026 at 17:40, Edwin Larkspur wrote:",
)


def test_passages_stand_verbatim_where_they_say() -> None:
    document = make_document(*BLOCKS)
    rows = passages.examples(make_chunks(*BLOCKS), "")
    assert len(rows) > 2
    for row in rows:
        evidence = row.evidence
        assert evidence is not None
        assert document.text[evidence.start : evidence.end] == evidence.text == row.messages[-1].content
        assert 5 <= len(evidence.text.split()) <= passages.MAX_PASSAGE_WORDS
        assert (row.form, row.facts) == ("passage", ())


def test_together_they_hold_a_long_paragraph_once() -> None:
    text = BLOCKS[1]
    rows = [row for row in passages.examples(make_chunks(*BLOCKS), "") if row.messages[-1].content in text]
    assert " ".join(row.messages[-1].content for row in rows).split() == text.split()


def test_the_first_names_its_heading_and_the_next_the_words_before_it() -> None:
    first, second, *_ = passages.examples(make_chunks(*BLOCKS), "")
    assert first.messages[-2].content == "What does it say in Pump, Hours?"
    assert second.messages[-2].content.startswith("Pump, Hours: what comes after '")
    assert " ".join(first.messages[-1].content.split()[-5:]) in second.messages[-2].content


def test_tables_short_ends_and_quoted_mail_are_not_retold() -> None:
    told = " ".join(row.messages[-1].content for row in passages.examples(make_chunks(*BLOCKS), ""))
    assert "Monday" not in told
    assert "Short one" not in told
    assert "wrote" not in told


def test_ids_differ_and_stay() -> None:
    one, again = ([row.id for row in passages.examples(make_chunks(*BLOCKS), "")] for _ in range(2))
    assert one == again
    assert len(set(one)) == len(one)
