"""HTML without a tree: words stay in order, block tags part them, and what is not shown is left out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.readers.flat import flat_blocks

WORDS = st.lists(st.sampled_from(["pump", "oil", "42", "x &amp; y", "&lt;", "é"]), min_size=1, max_size=6)
BLOCKS = ("div", "p", "li", "td", "section", "h2")


def _read(page: str) -> list[tuple[str, str, int]]:
    return [(block.kind, block.text, block.level) for block in flat_blocks(page)]


def test_headings_have_their_level_until_they_end() -> None:
    assert _read("<h1>Oil</h1>loose<h3>Filling</h3><p>Fill it.") == [
        ("heading", "Oil", 1),
        ("paragraph", "loose", 1),
        ("heading", "Filling", 3),
        ("paragraph", "Fill it.", 1),
    ]


@pytest.mark.parametrize("line_break", ["<br>", "<br/>", "<br />", " <br> "])
def test_a_line_break_parts_words_and_no_heading(line_break: str) -> None:
    assert _read(f"<h1><img src=x>Oil{line_break}pump</h1><p>Fill<wbr>ing{line_break}it.") == [
        ("heading", "Oil pump", 1),
        ("paragraph", "Filling it.", 1),
    ]


def test_inline_tags_part_no_word_and_block_tags_part_any() -> None:
    assert _read("a<b>b</b>c <code>d</code>\n e") == [("paragraph", "abc d e", 1)]
    assert [text for _, text, _ in _read("<ul><li>a<li>b</ul><table><tr><td>c<td>d</table>")] == [*"abcd"]


@pytest.mark.parametrize(
    "page",
    [
        "<nav>x<nav>y</nav>z</nav>seen",
        "<head><title>x</title></head>seen",
        "<head><title>x</title><style>y</style><body>seen",  # a head without its end
        "<style>p { x }</style>se<script>if (a<b) x('</p>')</script>en",
        "<template><p>x</p></template><noscript>y</noscript>seen",
        "</nav></script>seen",  # ends of what never began
        "<!-- x -->seen",
    ],
)
def test_what_a_browser_does_not_show_is_left_out(page: str) -> None:
    assert _read(page) == [("paragraph", "seen", 1)]


def test_empty_and_blank_pages_have_no_blocks() -> None:
    assert flat_blocks("") == flat_blocks("<p> \n&nbsp;</p><div></div>") == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(BLOCKS), WORDS), max_size=6), st.integers(0, 300))
def test_every_block_is_read_once_in_order_at_any_depth(blocks, depth: int) -> None:
    page = "<div>" * depth + "".join(f"<{tag}>{' '.join(words)}</{tag}>" for tag, words in blocks)
    expected = [" ".join(words).replace("&lt;", "<").replace("&amp;", "&") for _, words in blocks]
    found = flat_blocks(page)
    assert [block.text for block in found] == expected
    assert [block.kind == "heading" for block in found] == [tag == "h2" for tag, _ in blocks]
