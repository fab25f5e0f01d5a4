"""Lines of a page put together by where they stand and how large they are, on pages of 800 points."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.readers.lines import Line, PdfPage, Table, page_blocks

CELLS = (("Part", "Price"), ("filter", "£9"))


def _line(text: str, top: float, size: float = 10, bold: bool = False) -> Line:
    return Line(text, 60, top - size, 60 + 5 * len(text), top, size, bold)


def _page(number: int, *lines: Line, tables: tuple[Table, ...] = ()) -> PdfPage:
    return PdfPage(number, 800, list(lines), tables=list(tables))


def _run(number: int, *texts: str, top: float = 600) -> PdfPage:
    """Return a page of lines that follow each other two points apart."""
    return _page(number, *(_line(text, top - 12 * place) for place, text in enumerate(texts)))


def _read(*pages: PdfPage) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in page_blocks(list(pages))]


def test_a_gap_of_three_tenths_of_the_type_beyond_the_usual_ends_a_paragraph() -> None:
    tops = [700, 688, 676, 664, 649, 633.5]  # gaps of 2, 2, 2, 5 and 5.5 points; size 10 allows 2 + 3
    lines = [_line(text, top) for text, top in zip("ABCDEF", tops, strict=True)]
    assert _read(_page(1, *lines)) == [("paragraph", "A B C D E"), ("paragraph", "F")]


def test_type_an_eighth_larger_heads_and_bold_type_stands_below_it() -> None:
    lines = [
        _line("Manual", 700, 18),
        _line("Filling", 660, 12),
        _line("The pump is filled with oil.", 640),
        _line("Before you start", 610, bold=True),
        _line("Nearly as large", 580, 11),  # 1.12 times 10 is more
        _line("2026 2027 2028", 550, 18),  # no words
    ]
    blocks = page_blocks([_page(1, *lines)])
    assert [(block.text, block.level) for block in blocks if block.kind == "heading"] == [
        ("Manual", 1),
        ("Filling", 2),
        ("Before you start", 3),
    ]
    assert [block.kind for block in blocks][2::2] == ["paragraph", "paragraph"]


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("a hydrau\x02", "lic pump", "a hydraulic pump"),
        ("an air-", "tight seal", "an air-tight seal"),
        ("Larch -", "Elm road", "Larch - Elm road"),
        ("one", "two", "one two"),
    ],
)
def test_words_broken_at_the_end_of_a_line_are_mended(first: str, second: str, joined: str) -> None:
    assert _read(_run(1, first, second)) == [("paragraph", joined)]


def test_a_sentence_goes_on_over_the_page_break_only_if_it_was_not_over() -> None:
    assert _read(_run(1, "It is drained"), _run(2, "every month.")) == [
        ("paragraph", "It is drained every month.")
    ]
    assert len(_read(_run(1, "It is drained."), _run(2, "every month."))) == 2
    assert len(_read(_run(1, "It is drained"), _run(2, "Every month."))) == 2


@pytest.mark.parametrize(
    ("head", "on", "of", "kept"),
    [
        ("Works Ltd", 3, 5, 0),
        ("Works Ltd", 2, 5, 2),
        ("Works Ltd", 2, 2, 2),  # of two pages, without a number
        ("Manual, issue {}", 2, 2, 0),
        ("Page {} of 9", 1, 5, 0),
    ],
)
def test_what_stands_in_the_margin_of_most_pages_is_left_out(head: str, on: int, of: int, kept: int) -> None:
    pages = [_run(number, f"Body {'abcde'[number]}", "goes on", "and ends.") for number in range(of)]
    for page in pages[:on]:
        page.lines.insert(0, _line(head.format(page.number), 790))
    found = [text for _, text in _read(*pages)]
    assert sum("Body" in text for text in found) == of
    assert len(found) - of == kept


def test_pages_of_nothing_but_their_head_keep_it() -> None:
    assert (
        _read(*(_page(number, _line("Works Ltd", 790)) for number in range(3)))
        == [("paragraph", "Works Ltd")] * 3
    )
    assert _read() == _read(_page(1)) == []


def test_steps_count_up_from_one_and_other_numbers_begin_none() -> None:
    assert _read(
        _run(1, "1 Open the tap", "and wait.", "2 Close it.", "7 Larch Road is shut.", "3 Sign.")
    ) == [
        ("list_item", "Open the tap and wait."),
        ("list_item", "Close it. 7 Larch Road is shut."),
        ("list_item", "Sign."),
    ]
    assert _read(_run(1, "12 Larch Road")) == [("paragraph", "12 Larch Road")]


def test_a_table_stands_where_its_first_line_stood_and_takes_its_lines() -> None:
    table = Table(CELLS, 60, 540, 300, 575)
    lines = [
        _line(text, top) for text, top in [("Before.", 600), ("Part", 570), ("filter", 555), ("After.", 500)]
    ]
    blocks = page_blocks([_page(1, *lines, tables=(table,))])
    assert [(block.kind, block.text or block.cells) for block in blocks] == [
        ("paragraph", "Before."),
        ("table", CELLS),
        ("paragraph", "After."),
    ]
    assert table.holds(_line("x", 545))
    assert not table.holds(_line("x", 544.5))  # its middle lies below
    assert not table.holds(Line("x", 300, 550, 310, 560, 10, False))  # beside


def test_a_table_goes_on_over_the_page_break_if_it_is_as_wide() -> None:
    pages = [_page(number, tables=(Table(CELLS, 60, 540, 300, 575),)) for number in (1, 2)]
    (joined,) = page_blocks(pages)
    assert joined.cells == (("Part", "Price"), ("filter", "£9"), ("filter", "£9"))
    wider = _page(2, tables=(Table((("a", "b", "c"),), 60, 540, 300, 575),))
    assert len(page_blocks([pages[0], wider])) == 2
    assert len(page_blocks([pages[0], _page(3, tables=tuple(pages[1].tables))])) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 20)), max_size=6), max_size=4))
def test_no_word_of_the_body_is_lost_or_moved(pages) -> None:
    made, words = [], []
    for number, lines in enumerate(pages, 1):
        page, top = _page(number), 700.0
        for letter, gap in lines:
            words.append(f"{letter}{len(words)}")
            page.lines.append(_line(words[-1], top))
            top -= 10 + gap
        made.append(page)
    blocks = page_blocks(made)
    assert " ".join(block.text for block in blocks).split() == words
    assert all(one.page <= other.page for one, other in pairwise(blocks))
