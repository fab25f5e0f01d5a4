"""A piece of a document is cut smaller as the document would have been: places stay right, tables keep headers.

How documents are cut is tested with the stage that does it.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.chunking import cut, cut_smaller
from tests.made import count_words, make_document

ROWS = tuple((f"TD-{number}", f"{number} kg", f"£{number}0") for number in range(10, 40))
SENTENCES = "The yard clock is right. Tea is served at ten. Lost keys cost £31. Ring the bell twice, please."


@settings(max_examples=60, deadline=None)
@given(st.integers(14, 60), st.integers(10, 14))
def test_smaller_pieces_fit_stand_where_they_say_and_lose_nothing(large: int, small: int) -> None:
    document = make_document("# Hours", SENTENCES, (("Model", "Weight"), *(row[:2] for row in ROWS)))
    for chunk in cut(document, large, count_words):
        pieces = list(cut_smaller(chunk, small, count_words))
        assert {piece.heading_path for piece in pieces} == {("Hours",)}
        for piece in pieces:
            assert piece.num_tokens == count_words(piece.text) <= small
            assert (piece.start, piece.end) == (piece.elements[0].start, piece.elements[-1].end)
            for element in piece.elements:
                assert document.text[element.start : element.end] == element.text
        assert chunk.start == pieces[0].start
        assert chunk.end == pieces[-1].end
        body = [row for piece in pieces for element in piece.elements for row in (element.cells or ())[1:]]
        assert body == [row for element in chunk.elements for row in (element.cells or ())[1:]]


def test_a_piece_of_a_table_keeps_its_header_when_it_is_cut_again() -> None:
    whole = make_document((("Model", "Weight", "Price"), *ROWS))
    (first, *_) = cut(whole, 120, count_words)
    pieces = list(cut_smaller(first, 40, count_words))
    assert len(pieces) > 2
    assert all(piece.text.startswith("| Model | Weight | Price |\n| TD-") for piece in pieces)
    assert len({piece.id for piece in pieces}) == len(pieces)


def test_a_piece_that_fits_stays_whole() -> None:
    (chunk,) = cut(make_document(SENTENCES), 64, count_words)
    (piece,) = cut_smaller(chunk, 64, count_words)
    assert piece.model_copy(update={"id": chunk.id}) == chunk


def test_a_row_that_was_cut_between_its_cells_is_cut_like_a_sentence() -> None:
    names = tuple(f"Column {number}" for number in range(40))
    row = ("TD-40", *(f"value of {number}" for number in range(39)))
    document = make_document((names, row))
    for chunk in cut(document, 32, count_words):
        for piece in cut_smaller(chunk, 16, count_words):
            assert document.text[piece.start : piece.end] == piece.elements[0].text
            assert piece.num_tokens <= 16
