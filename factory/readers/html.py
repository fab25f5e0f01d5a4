"""Read HTML through unstructured's partitioner, after taking out what a browser would not show.

Knows how unstructured 0.27 maps tags: it drops details, forms and figures, and breaks list items at
paragraphs; the tree is rewritten so that no visible text is lost. Other readers hand their HTML over to here.
"""

import re
from typing import Any

import unstructured.partition.html.parser as html_parser
from lxml import etree
from lxml import html as lxml_html
from unstructured.documents.elements import Element, ListItem, Text
from unstructured.partition.html import partition_html
from unstructured.partition.text_type import is_bulleted_text

from factory.readers.contract import Block, Limits, Parsed
from factory.readers.flat import flat_blocks
from factory.readers.grid import read_cells, square_table
from factory.readers.sniff import decode_text
from factory.text.clean import clean_text

MAX_DEPTH = 150
UNSEEN_TAGS = (
    "script style noscript template nav input select textarea button svg canvas audio video iframe object "
    "noframes noembed datalist math link meta base"
)
BLOCK_TAGS = {
    "details": "div",
    "figure": "div",
    "form": "div",
    "fieldset": "div",
    "dialog": "div",
    "menu": "ul",
}
LINE_TAGS = {"summary": "p", "figcaption": "p", "legend": "p", "label": "span"}
HIDDEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d]*[1-9])|opacity\s*:\s*0(?:\.0*)?\s*(?:;|$)",
    re.I,
)
META_NAMES = {
    "author",
    "date",
    "description",
    "keywords",
    "version",
    "last-modified",
    "dcterms.modified",
    "dcterms.created",
}
META_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?\s*([\w-]+)", re.I)


def read_html(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return an HTML page's visible blocks, its title and its meta tags."""
    text = _decode_page(data)
    title, metadata = _read_head(text)
    return Parsed(html_blocks(text), title, metadata)


def html_blocks(text: str) -> list[Block]:
    """Return the visible blocks of HTML text; headings carry their level, tables their cells."""
    text = re.sub(r"<!DOCTYPE[^>\[]*(\[.*?\]\s*)?>", "", clean_text(text), count=1, flags=re.I | re.S)
    tree = _parse(text)
    if tree is None:
        return []
    if _depth(tree) > MAX_DEPTH:
        return flat_blocks(text)
    _show_only_visible(tree)
    try:
        elements = partition_html(text=lxml_html.tostring(tree, encoding="unicode"), languages=[""])
    except RecursionError:
        return flat_blocks(text)
    return [block for element in elements for block in _to_blocks(element)] or flat_blocks(text)


def _decode_page(data: bytes) -> str:
    declared = META_CHARSET.search(data[:2048])
    if declared:
        try:
            return data.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            return decode_text(data)
    return decode_text(data)


def _parse(text: str) -> Any:
    """Return the element tree, or None when there is nothing but white space and comments."""
    try:
        parser = lxml_html.HTMLParser(remove_comments=True, remove_pis=True, huge_tree=True)
        return lxml_html.document_fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text), parser=parser)
    except etree.ParserError:
        return None


def _depth(tree: Any) -> int:
    depth = deepest = 0
    for event, _ in etree.iterwalk(tree, events=("start", "end")):
        depth += 1 if event == "start" else -1
        deepest = max(deepest, depth)
    return deepest


def _read_head(text: str) -> tuple[str, dict[str, str]]:
    tree = _parse(clean_text(text))
    if tree is None:
        return "", {}
    title = next((node.text_content() for node in tree.iter("title")), "")
    metadata = {}
    for node in tree.iter("meta"):
        key = (node.get("name") or node.get("property") or "").lower()
        if key in META_NAMES and node.get("content"):
            metadata[key] = node.get("content")
    return title, metadata


def _show_only_visible(tree: Any) -> None:
    """Drop unseen nodes, rename what the partitioner would drop, and square the tables, in place."""
    for node in list(tree.iter(*UNSEEN_TAGS.split())):
        _drop(node)
    for node in list(tree.iter("*")):
        if (
            node.get("hidden") is not None
            or node.get("aria-hidden") == "true"
            or HIDDEN_STYLE.search(node.get("style", ""))
        ):
            _drop(node)
    for node in list(tree.iter("img")):
        _drop(node)
    for node in tree.iter(*BLOCK_TAGS, *LINE_TAGS):
        node.tag = BLOCK_TAGS.get(node.tag) or LINE_TAGS[node.tag]
    for node in list(tree.iter("li")):
        _unwrap_first_paragraph(node)
    for node in list(tree.iter("dl")):
        _join_definitions(node)
    for node in list(tree.iter("table")):
        if node.getparent() is not None and next(node.iterancestors("table"), None) is None:
            square_table(node)


def _drop(node: Any) -> None:
    if node.getparent() is not None:
        node.drop_tree()


def _unwrap_first_paragraph(item: Any) -> None:
    """Turn '<li><p>text</p>' into '<li>text', which the partitioner takes for a list item."""
    if len(item) and item[0].tag == "p" and not (item.text or "").strip():
        item[0].drop_tag()


def _join_definitions(node: Any) -> None:
    """Turn each plain term and its definitions into one paragraph 'Term: definition'."""
    for child in node:
        _unwrap_first_paragraph(child)
    if any(child.tag not in ("dt", "dd") or child.find(".//p") is not None for child in node):
        return
    term = None
    for child in list(node):
        if child.tag == "dt":
            term = child
        elif term is not None:
            child.text = f"{term.text_content().strip().rstrip(':')}: {(child.text or '').lstrip()}"
            child.tag = "p"
            if term.getparent() is not None:
                node.remove(term)
    node.tag = "div"


def _to_blocks(element: Element) -> list[Block]:
    match element.category:
        case "Title":
            return [Block("heading", element.text, level=(element.metadata.category_depth or 0) + 1)]
        case "ListItem":
            return [Block("list_item", element.text)]
        case "CodeSnippet":
            return [Block("code", element.text)]
        case "Table":
            caption, cells = read_cells(element.metadata.text_as_html or "")
            return ([Block("paragraph", caption)] if caption else []) + [Block("table", cells=cells)]
        case "Image":
            return []
        case _:
            return [Block("paragraph", element.text)]


def _classify(text: str) -> type[Text]:
    return ListItem if is_bulleted_text(text) else Text


# The stock classifier drops texts of one character and is slow in telling narrative from other text.
html_parser.derive_element_type_from_text = _classify
