import time

import pikepdf
import pytest

BODY = "The Zephyrine pump needs 42 litres of oil and is drained every six months in"


def header(page):
    return (10, f"Works Ltd - manual - page {page}")


def test_headings_paragraphs_and_pages(read_one, make):
    pages = [
        [
            header(1),
            (18, "Pump manual"),
            (14, "Filling"),
            (10, BODY),
            (10, "the presence of an engineer."),
            (10, "and"),
        ],
        [header(2), (10, "signed off."), (14, "Draining"), (10, "- Open the tap."), (10, "- Wait.")],
    ]
    document = read_one("a.pdf", make.pdf(pages))
    assert document.title == "Pump manual"
    assert [(item.kind, item.text, item.page, item.heading_path) for item in document.elements] == [
        ("heading", "Pump manual", 1, ()),
        ("heading", "Filling", 1, ()),
        ("paragraph", f"{BODY} the presence of an engineer. and signed off.", 1, ("Filling",)),
        ("heading", "Draining", 2, ()),
        ("list_item", "Open the tap.", 2, ("Draining",)),
        ("list_item", "Wait.", 2, ("Draining",)),
    ]


def test_ruled_tables_are_cells_in_reading_order_and_join_over_pages(read_one, make):
    rows = [["Part", "Price"], ["filter", "£9"]]
    document = read_one("a.pdf", make.pdf([[(10, "Before it.")], [(10, "Between.")]], table=rows))
    assert [(item.kind, item.page) for item in document.elements] == [
        ("paragraph", 1),
        ("table", 1),
        ("paragraph", 2),
        ("table", 2),
    ]
    assert document.elements[1].cells == (("Part", "Price"), ("filter", "£9"))
    joined = read_one("a.pdf", make.pdf([[], []], table=rows))
    assert [item.cells for item in joined.elements] == [
        (("Part", "Price"), ("filter", "£9"), ("filter", "£9"))
    ]


def test_a_scan_has_no_text(refusal):
    file = pikepdf.new()
    file.add_blank_page()
    assert refusal("scan.pdf", save(file)) == "no_text"


def save(file):
    from io import BytesIO

    out = BytesIO()
    file.save(out)
    return out.getvalue()


def test_locked_damaged_and_endless_files_have_their_reasons(refusal, read_one, make):
    pages = [[(10, "words of some length")]]
    assert refusal("a.pdf", make.pdf(pages, password="secret")) == "encrypted"
    assert refusal("a.pdf", b"%PDF-1.4\njunk\n") == "corrupt"
    assert refusal("a.pdf", b"not a pdf at all") == "corrupt"
    assert refusal("a.pdf", make.pdf(pages * 3), max_pages=2) == "too_large"
    assert read_one("a.pdf", make.pdf(pages * 3), max_pages=3).metadata["pages"] == "3"


@pytest.mark.parametrize("name", ["a.pdf", "a.txt", "a"])
def test_a_pdf_is_known_by_its_content(read_one, make, name):
    assert read_one(name, make.pdf([[(10, "words of some length")]])).format == "pdf"


def test_200_pages_take_seconds(read_one, make):
    data = make.pdf([[header(page), (10, BODY)] for page in range(200)])
    begin = time.perf_counter()
    assert len(read_one("a.pdf", data).elements) == 200
    assert time.perf_counter() - begin < 10
