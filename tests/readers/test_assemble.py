import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.readers.assemble import assemble_document, prettify_name, render_table
from factory.readers.contract import Block, Parsed

KINDS = st.sampled_from(["paragraph", "list_item", "code", "field"])
BLOCKS = st.one_of(
    st.builds(Block, KINDS, st.text()),
    st.builds(Block, st.just("heading"), st.text(), st.integers(1, 6)),
    st.builds(Block, st.just("table"), cells=st.lists(st.lists(st.text(), max_size=3).map(tuple)).map(tuple)),
)


def assemble(blocks, title="", path="a/b.md", **metadata):
    parsed = Parsed(blocks, title, metadata)
    return assemble_document(parsed, path=path, sha256="0" * 64, format_name="markdown")


@given(st.lists(BLOCKS, max_size=12), st.text())
def test_every_span_reproduces_its_text(blocks, title):
    document = assemble(blocks, title)
    assert all(document.text[item.start : item.end] == item.text for item in document.elements)
    assert "\n\n".join(item.text for item in document.elements) == document.text
    assert document.title


def test_heading_path_holds_the_headings_above_without_the_title():
    blocks = [Block("heading", text, level) for text, level in [("T", 1), ("A", 2), ("B", 3), ("C", 2)]]
    document = assemble([*blocks, Block("paragraph", "words")])
    assert document.title == "T"
    assert [item.heading_path for item in document.elements] == [(), (), ("A",), (), ("C",)]


def test_a_stated_title_leaves_the_first_heading_in_the_path():
    document = assemble([Block("heading", "Rates", 1), Block("paragraph", "words")], title="Travel policy")
    assert (document.title, document.elements[1].heading_path) == ("Travel policy", ("Rates",))


def test_cells_equal_the_rendered_table_and_pipes_are_escaped():
    document = assemble([Block("table", cells=(("a", "b|c"), ("1\n2",), ("", "")))])
    (table,) = document.elements
    assert table.cells == (("a", "b\\|c"), ("1 2", ""))
    assert table.text == "| a | b\\|c |\n| --- | --- |\n| 1 2 |  |" == render_table(table.cells)


@pytest.mark.parametrize(
    "stated", ["untitled", "Microsoft Word - x.docx", "Document1", "travel-policy_v3", "x.pdf"]
)
def test_a_title_that_an_exporter_made_up_is_not_used(stated):
    assert assemble([Block("heading", "Travel", 1)], title=stated).title == "Travel"


def test_file_names_become_titles():
    assert prettify_name("hr/travel_policy-v2.md") == "Travel policy v2"
    assert prettify_name("a.zip!/x/notes.txt") == "Notes"
    assert prettify_name("a\nb.txt") == "A b"


def test_empty_blocks_and_metadata_vanish():
    document = assemble([Block("paragraph", " \u200b "), Block("paragraph", "x")], owner=" ", date="2026")
    assert (document.text, document.metadata) == ("x", {"date": "2026"})
