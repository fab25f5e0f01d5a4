"""Tables and paragraphs as HTML: whatever a text holds comes out as that text and as nothing else."""

import html
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from factory.web.markup import Table, chat_text, paragraph, to_html

TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), max_size=20) | st.sampled_from(
    ["<script>alert(1)</script>", "${alert(1)}", "{{value}}", "`", '" onload="x', "&lt;", "</td>"]
)


class Seen(HTMLParser):
    """Collects the tags and the texts of cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag in {"th", "td", "caption", "p"}:
            self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data


@given(TEXTS, st.lists(st.lists(TEXTS, min_size=2, max_size=2), max_size=3))
def test_texts_of_a_table_come_back_and_add_no_markup(title, rows):
    text = to_html(Table(title, ("a", "b"), rows))
    seen = Seen(text)
    assert seen.cells == [title, "a", "b", *(cell for row in rows for cell in row)]
    assert seen.tags.count("tr") == 1 + len(rows)
    assert set(seen.tags) <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert not set("{}$`") & set(text)


@given(TEXTS | st.text(alphabet="a`<>&;#96 \n"))
def test_a_paragraph_is_its_text_but_for_the_marks_around_code(text):
    seen = Seen(paragraph(text))
    plain, num_codes = re.subn(r"`([^`]+)`", r"\1", text)
    assert (seen.tags, seen.cells) == (["p", *["code"] * num_codes], [plain])


def test_a_command_in_a_paragraph_is_code():
    assert paragraph("Run `factory list <x>`, then `y`.") == (
        '<p role="status">Run <code>factory list &lt;x&gt;</code>, then <code>y</code>.</p>'
    )


def test_each_row_is_named_by_its_first_cell():
    text = to_html(Table("T", ("What", "Which"), [["Base", "smollm2"]]))
    assert '<th scope="row">Base</th><td>smollm2</td>' in text
    assert '<caption>T</caption><thead><tr><th scope="col">What</th>' in text
    assert to_html() == ""


def test_a_folded_table_shows_its_title_and_how_many_rows_it_has():
    text = to_html(Table("Files", ("a",), [["x"], ["y"]], folded=True))
    assert text.startswith("<details><summary>Files (2)</summary><div")
    assert text.endswith("</table></div></details>")


@given(TEXTS | st.text(alphabet="<>&;#/!?abglmpt1 \n", max_size=30))
def test_a_chat_shows_a_text_as_it_is_and_gives_it_back(text):
    shown = chat_text(text)
    seen = Seen(f"<p>{shown}</p>")
    assert seen.tags == ["p"]
    assert seen.cells == [text]
    assert html.unescape(shown) == text


def test_a_chat_gets_plain_text_as_it_is_so_that_it_is_copied_so():
    for text in ("R&D costs < 5 and > 3", "a <- b", "if x<3 && y>2:", "{x} `y` ${z}"):
        assert chat_text(text) == text
