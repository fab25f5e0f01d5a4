from hypothesis import given
from hypothesis import strategies as st

from factory.readers.contract import Limits
from factory.readers.plain import text_blocks


def kinds(text):
    return [(block.kind, block.text) for block in text_blocks(text)]


def test_wrapped_lines_join_and_short_lines_do_not():
    text = "A paragraph that was wrapped at sixty characters, so\nthat its lines are one.\n\nYours\nAda\n"
    assert kinds(text) == [
        ("paragraph", text.split("\n\n")[0].replace("\n", " ")),
        ("paragraph", "Yours"),
        ("paragraph", "Ada"),
    ]


def test_headings_in_capitals_numbers_and_underlines():
    text = "LEAVE POLICY\nVersion 4\n\n1. Asking\nAsk two weeks ahead.\n\n2.1 Sick leave\n\nRing us.\n\n"
    text += "Notes\n-----\nx\n"
    assert [(b.kind, b.level, b.text) for b in text_blocks(text) if b.kind == "heading"] == [
        ("heading", 1, "LEAVE POLICY"),
        ("heading", 2, "1. Asking"),
        ("heading", 3, "2.1 Sick leave"),
        ("heading", 2, "Notes"),
    ]


def test_numbered_lists_are_lists():
    assert kinds("1. Drain it\n2. Fill it\n\n3. Go\n\n4. Home\n") == [
        ("list_item", "Drain it"),
        ("list_item", "Fill it"),
        ("list_item", "Go"),
        ("list_item", "Home"),
    ]


def test_labels_and_log_lines_stand_alone():
    assert kinds("Order:    TO-1\nPrice:    9\n          net\n") == [
        ("paragraph", "Order:    TO-1"),
        ("paragraph", "Price:    9           net"),
    ]
    assert len(kinds("2026-01-02 10:00 up\n2026-01-02 10:01 down\n")) == 2
    assert len(kinds("    region = eu\n    key = abc\n")) == 2


def test_rst_reads_no_other_file(read_one, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("swordfish")
    text = f"Oil\n===\n\nFill *it*.\n\n.. include:: {secret}\n\n.. raw:: html\n   :file: {secret}\n\n* one\n"
    document = read_one("a.rst", text)
    assert [item.text for item in document.elements] == ["Oil", "Fill it.", "one"]


@given(st.text(st.sampled_from("ab 1.-:=\n\tA\u00e9\u200b\u202e*"), min_size=1))
def test_spans_reproduce_the_text_of_any_file(text):
    from factory.readers.source import read_source

    reading = read_source("a.txt", text.encode(), Limits())
    assert {row.reason for row in reading.quarantined} <= {"no_text", "unsupported"}
    for document in reading.documents:
        assert all(document.text[item.start : item.end] == item.text for item in document.elements)
