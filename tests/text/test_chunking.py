"""A piece of a document is cut smaller as the document would have been: places stay right, tables keep headers.

How documents are cut is tested with the stage that does it.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.chunking import cut, cut_smaller, leave_out
from tests.made import count_words, make_document

ROWS = tuple((f"TD-{number}", f"{number} kg", f"£{number}0") for number in range(10, 40))
SENTENCES = "The yard clock is right. Tea is served at ten. Lost keys cost £31. Ring the bell twice, please."


@settings(max_examples=60, deadline=None)
@given(st.integers(14, 60), st.integers(11, 14))
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


def _left(chunk, *parts: str) -> str:
    """Return what is shown of a chunk without some parts of its text."""
    places = [
        (chunk.start + chunk.text.index(part), chunk.start + chunk.text.index(part) + len(part))
        for part in parts
    ]
    left = leave_out(chunk, places)
    for element in left.elements:
        assert not [place for place in places if place[0] < element.end and element.start < place[1]]
        start = element.start - chunk.start
        assert chunk.text[start : start + len(element.text)] == element.text
    return "\n\n".join(piece.text for piece in cut_smaller(left, 999, count_words))


def test_a_sentence_that_is_left_out_takes_nothing_else_with_it() -> None:
    (chunk,) = cut(make_document(SENTENCES), 64, count_words)
    assert _left(chunk, "Tea is served at ten.", "Ring the bell twice, please.") == (
        "The yard clock is right.\n\nLost keys cost £31."
    )
    assert _left(chunk, "Tea is", "is served at") == (
        "The yard clock is right.\n\nten. Lost keys cost £31. Ring the bell twice, please."
    )
    assert leave_out(chunk, [(chunk.end, chunk.end + 5), (-5, chunk.start)]) is chunk
    assert leave_out(chunk, [(chunk.start, chunk.end)]).elements == ()


def test_a_row_that_is_left_out_leaves_the_others_below_their_header() -> None:
    (chunk,) = cut(make_document((("Model", "Weight", "Price"), *ROWS[:5])), 999, count_words)
    shown = _left(chunk, "TD-11 | 11 kg", "| TD-12 | 12 kg | £120 |")
    assert shown == (
        "| Model | Weight | Price |\n| TD-10 | 10 kg | £100 |\n\n"
        "| Model | Weight | Price |\n| TD-13 | 13 kg | £130 |\n| TD-14 | 14 kg | £140 |"
    )
    assert _left(chunk, "TD-10").startswith("| Model | Weight | Price |\n| TD-11 ")


def test_a_piece_of_a_row_is_left_out_whole() -> None:
    names = tuple(f"Column {number}" for number in range(40))
    row = ("TD-40", *(f"value of {number}" for number in range(39)))
    first, second, *_ = cut(make_document((names, row)), 32, count_words)
    assert leave_out(second, [(second.start, second.start + 3)]).elements == ()
    assert leave_out(first, [(second.start, second.end)]) is first
