"""Read Word files through unstructured, after accepting tracked changes and dropping what nobody sees.

Knows what unstructured 0.27 overlooks: insertions, content controls, text boxes, footnotes, and text that is
hidden, tiny, or of the colour of what it stands on.
"""

import io
import re
from collections.abc import Iterator
from typing import Any

import docx
import unstructured.partition.docx as docx_parser
from docx.oxml import parse_xml
from docx.oxml.ns import qn
from unstructured.documents.elements import Element
from unstructured.partition.docx import partition_docx

from factory.readers.archive import check_office
from factory.readers.contract import Block, Limits, Parsed
from factory.readers.grid import read_cells
from factory.readers.office import read_core

REMOVED = ("del", "moveFrom", "commentReference")
UNWRAPPED = ("ins", "moveTo", "sdtContent", "sdt", "smartTag", "customXml")
PROPERTIES = ("sdtPr", "sdtEndPr", "smartTagPr", "customXmlPr")
LABEL = re.compile(r"^\(?(?:\d{1,3}(?:\.\d{1,3})*|[a-z]|[ivx]+)[.)]\s+")
MAX_BOLD_HEADING_CHARS = 80

TINY_HALF_POINTS = 2
ALIKE = 10  # of 255 a channel: nobody tells F5F5F5 from white
HEX = re.compile(r"[0-9A-Fa-f]{6}")
WHITE, UNKNOWN = "FFFFFF", "unknown"
HIGHLIGHTS = {"white": WHITE, "black": "000000", "none": ""}


def _path(*tags: str) -> str:
    return "/".join(qn(f"w:{tag}") for tag in tags)


VAL, RUN, PARAGRAPH, TEXT, CELL, TABLE, BOX = map(_path, ("val", "r", "p", "t", "tc", "tbl", "txbxContent"))
SHADES = {
    PARAGRAPH: _path("pPr", "shd"),
    CELL: _path("tcPr", "shd"),
    TABLE: _path("tblPr", "shd"),
    BOX: "",
}


def read_docx(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a Word file's blocks, footnotes last, with its core properties as metadata."""
    check_office(data, limits)
    document = docx.Document(io.BytesIO(data))
    sight = _Sight(document)
    sight.drop_unseen(document.element)
    _settle_changes(document.element)
    notes = _read_notes(document, sight)
    styled_title = _read_title(document)
    file = io.BytesIO()
    document.save(file)
    elements = partition_docx(file=file, languages=[""], include_page_breaks=False)
    title, metadata = read_core(document.core_properties)
    for category in ("Header", "Footer"):
        metadata[category.lower()] = " ".join(e.text for e in elements if e.category == category)
    blocks = [block for element in elements for block in _to_blocks(element)]
    return Parsed(_find_bold_headings(blocks, elements) + notes, styled_title or title, metadata)


def _read_title(document: Any) -> str:
    """Return the text of the first paragraph in the style 'Title', found without resolving every style."""
    styles = [style.style_id for style in document.styles if style.name == "Title"]
    found = document.element.body.xpath(f"./w:p[w:pPr/w:pStyle/@w:val='{styles[0]}']") if styles else []
    return "".join(node.text or "" for node in found[0].iter(qn("w:t"))) if found else ""


class _Sight:
    """What somebody who looks at the pages sees. What styles say is followed along `basedOn`, and remembered."""

    def __init__(self, document: Any) -> None:
        root, body = document.styles.element, document.element
        self._styles = {style.get(_path("styleId")): style for style in root.iter(_path("style"))}
        self._known: dict[tuple[str, str], Any] = {}
        usual = [name for name, style in self._styles.items() if _is_usual_paragraph(style)]
        self._usual_paragraph = usual[0] if usual else ""
        self._rest = root.find(_path("docDefaults", "rPrDefault"))
        covered = any(anchor.get("behindDoc") in ("1", "true") for anchor in body.iter(qn("wp:anchor")))
        self._paper = UNKNOWN if covered or body.find(_path("background")) is not None else WHITE

    def drop_unseen(self, root: Any) -> None:
        """Take out hidden runs and rows, and text that is tiny or cannot be told from its ground."""
        for mark in list(root.iter(_path("hidden"))):
            if _is_on(mark) and mark.getparent().tag == _path("trPr"):
                _remove(mark.getparent().getparent())
        for run in list(root.iter(RUN)):
            styles = self._styles_of(run)
            if self._vanishes(run, styles):
                _remove(run)
            elif self._is_tiny(run, styles) or self._blends_in(run, styles):
                for text in run.findall(TEXT):  # a drawing in the run has looks of its own
                    run.remove(text)

    def _styles_of(self, run: Any) -> tuple[str, str]:
        """Return the names of a run's own style and of its paragraph's."""
        paragraph = next(run.iterancestors(PARAGRAPH), None)
        named = None if paragraph is None else paragraph.find(_path("pPr", "pStyle"))
        return _value(run.find(_path("rPr", "rStyle"))), _value(named) or self._usual_paragraph

    def _in_style(self, style: str, path: str) -> Any:
        """Return a property of a style, its own or inherited, or None."""
        if (style, path) not in self._known:
            found, name, seen = None, style, set()
            while found is None and name in self._styles and name not in seen:
                seen.add(name)
                found = self._styles[name].find(path)
                name = _value(self._styles[name].find(_path("basedOn")))
            self._known[style, path] = found
        return self._known[style, path]

    def _said(self, run: Any, styles: tuple[str, str], tag: str) -> Any:
        """Return a run's property from where it is said nearest to the run, or None."""
        path = _path("rPr", tag)
        places = (run.find(path), *(self._in_style(style, path) for style in styles))
        found = next((place for place in places if place is not None), None)
        return self._rest.find(path) if found is None and self._rest is not None else found

    def _vanishes(self, run: Any, styles: tuple[str, str]) -> bool:
        """Tell whether a run is hidden: two styles that both hide show it again (ECMA-376 part 1, 17.7.3)."""
        path = _path("rPr", "vanish")
        own = run.find(path)
        by_style = [_is_on(self._in_style(style, path)) for style in styles]
        return by_style.count(True) == 1 if own is None else _is_on(own)

    def _is_tiny(self, run: Any, styles: tuple[str, str]) -> bool:
        size = _value(self._said(run, styles, "sz"))
        return size.isdecimal() and len(size) < 9 and int(size) <= TINY_HALF_POINTS

    def _blends_in(self, run: Any, styles: tuple[str, str]) -> bool:
        colour = self._said(run, styles, "color")
        return colour is not None and _are_alike(_value(colour), self._ground(run, styles))

    def _ground(self, run: Any, styles: tuple[str, str]) -> str:
        """Return the colour behind a run, or UNKNOWN, from the nearest thing that has one."""
        return next(filter(None, self._grounds(run, styles)), self._paper)

    def _grounds(self, run: Any, styles: tuple[str, str]) -> Iterator[str]:
        highlight = _value(self._said(run, styles, "highlight"))
        yield HIGHLIGHTS.get(highlight, UNKNOWN) if highlight else ""
        yield _fill(self._said(run, styles, "shd"))
        for node in run.iterancestors(*SHADES):
            yield UNKNOWN if node.tag == BOX else _fill(node.find(SHADES[node.tag]))
            if node.tag == PARAGRAPH:
                yield _fill(self._in_style(styles[1], SHADES[PARAGRAPH]))
            elif node.tag == TABLE:
                style = _value(node.find(_path("tblPr", "tblStyle")))
                yield UNKNOWN if self._in_style(style, f".//{_path('shd')}") is not None else ""


def _value(node: Any) -> str:
    return "" if node is None else node.get(VAL, "")


def _is_on(node: Any) -> bool:
    return node is not None and node.get(VAL, "1") not in ("0", "false", "off")


def _is_usual_paragraph(style: Any) -> bool:
    return style.get(_path("type")) == "paragraph" and style.get(_path("default")) in ("1", "true", "on")


def _fill(shade: Any) -> str:
    """Return the colour of a shading, empty if it has none, UNKNOWN for a pattern or a colour of the theme."""
    if shade is None:
        return ""
    pattern = _value(shade)
    colour = shade.get(_path("color" if pattern == "solid" else "fill"), "")
    if HEX.fullmatch(colour) and pattern in ("clear", "nil", "solid", ""):
        return colour
    return "" if pattern in ("clear", "nil", "") and shade.get(_path("themeFill")) is None else UNKNOWN


def _are_alike(colour: str, ground: str) -> bool:
    if not (HEX.fullmatch(colour) and HEX.fullmatch(ground)):
        return False
    channels = zip(bytes.fromhex(colour), bytes.fromhex(ground), strict=True)
    return all(abs(one - other) <= ALIKE for one, other in channels)


def _settle_changes(body: Any) -> None:
    """Accept insertions, drop deletions, and lift text boxes to paragraphs of their own."""
    for node in list(body.iter(*map(qn, (f"w:{tag}" for tag in REMOVED)))):
        _remove(node)
    for node in list(body.iter("{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback")):
        _remove(node)
    for box in list(body.iter(qn("w:txbxContent"))):
        _lift(box)
    for node in list(body.iter(*map(qn, (f"w:{tag}" for tag in PROPERTIES)))):
        _remove(node)
    for node in list(body.iter(*map(qn, (f"w:{tag}" for tag in UNWRAPPED)))):
        _unwrap(node)


def _remove(node: Any) -> None:
    if node.getparent() is not None:
        node.getparent().remove(node)


def _unwrap(node: Any) -> None:
    parent = node.getparent()
    if parent is None:
        return
    index = parent.index(node)
    for offset, child in enumerate(list(node)):
        parent.insert(index + offset, child)
    parent.remove(node)


def _lift(box: Any) -> None:
    """Move a text box's paragraphs to after the paragraph that anchors it."""
    anchor = next(box.iterancestors(qn("w:p")), None)
    if anchor is None or anchor.getparent() is None:
        return
    for child in reversed(list(box)):
        anchor.addnext(child)


def _read_notes(document: Any, sight: "_Sight") -> list[Block]:
    """Return the footnotes and endnotes as paragraphs."""
    blocks = []
    for relation in document.part.rels.values():
        if relation.is_external or not relation.reltype.endswith(("/footnotes", "/endnotes")):
            continue
        root = parse_xml(relation.target_part.blob)
        sight.drop_unseen(root)
        for note in root:
            if note.get(qn("w:type")) in (None, "normal"):
                blocks.append(Block("paragraph", "".join(text.text or "" for text in note.iter(qn("w:t")))))
    return blocks


def _to_blocks(element: Element) -> list[Block]:
    page = element.metadata.page_number
    match element.category:
        case "Title":
            return [Block("heading", element.text, (element.metadata.category_depth or 0) + 1, page)]
        case "ListItem":
            return [Block("list_item", LABEL.sub("", element.text), page=page)]
        case "Table":
            if element.metadata.text_as_html:
                return [Block("table", page=page, cells=read_cells(element.metadata.text_as_html)[1])]
            return [Block("paragraph", element.text, page=page)]
        case "Header" | "Footer" | "PageBreak" | "Image":
            return []
        case _:
            return [Block("paragraph", element.text, page=page)]


def _find_bold_headings(blocks: list[Block], elements: list[Element]) -> list[Block]:
    """Return the blocks with short bold lines as headings, if the file has no styled ones."""
    if any(block.kind == "heading" for block in blocks):
        return blocks
    bold = {
        element.text
        for element in elements
        if "".join(element.metadata.emphasized_text_contents or []).strip() == element.text.strip()
        and "b" in (element.metadata.emphasized_text_tags or [])
    }
    return [
        Block("heading", block.text, 1, block.page)
        if block.kind == "paragraph"
        and block.text in bold
        and len(block.text) <= MAX_BOLD_HEADING_CHARS
        and block.text.rstrip()[-1:] not in ".,;:"
        else block
        for block in blocks
    ]


def _is_narrative(_text: str) -> bool:
    return False


# Narrative and other text are both paragraphs here, and telling them apart takes half the time.
docx_parser.is_possible_narrative_text = _is_narrative  # type: ignore[attr-defined, assignment]
