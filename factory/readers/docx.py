"""Read Word files through unstructured, after accepting tracked changes and dropping hidden text.

Knows what unstructured 0.27 overlooks: insertions, content controls, text boxes and footnotes.
"""

import io
import re
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


def read_docx(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a Word file's blocks, footnotes last, with its core properties as metadata."""
    check_office(data, limits)
    document = docx.Document(io.BytesIO(data))
    _settle_changes(document.element)
    notes = _read_notes(document)
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


def _settle_changes(body: Any) -> None:
    """Accept insertions, drop deletions and hidden runs, and lift text boxes to paragraphs of their own."""
    for node in list(body.iter(*map(qn, (f"w:{tag}" for tag in REMOVED)))):
        _remove(node)
    for run in list(body.iter(qn("w:r"))):
        hidden = run.find(f"{qn('w:rPr')}/{qn('w:vanish')}")
        if hidden is not None and hidden.get(qn("w:val"), "1") not in ("0", "false", "off"):
            _remove(run)
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


def _read_notes(document: Any) -> list[Block]:
    """Return the footnotes and endnotes as paragraphs."""
    blocks = []
    for relation in document.part.rels.values():
        if relation.is_external or not relation.reltype.endswith(("/footnotes", "/endnotes")):
            continue
        root = parse_xml(relation.target_part.blob)
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
