"""Read PowerPoint files through unstructured: a heading a slide, its texts and tables, its speaker notes.

unstructured 0.27 puts notes before the slide's title and takes short lines for titles; here they follow the
slide's own title. Text in charts, diagrams and pictures is not read, nor are hidden slides and shapes.
"""

import io
from collections.abc import Iterator
from typing import Any

import pptx
from unstructured.documents.elements import Element
from unstructured.partition.pptx import partition_pptx

from factory.readers.archive import check_office
from factory.readers.contract import Block, Limits, Parsed
from factory.readers.grid import read_cells
from factory.readers.office import read_core
from factory.rows import ElementKind

FALSE = ("0", "false")  # of XML schema's booleans


def read_pptx(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a deck's blocks with slide numbers as pages, and its core properties as metadata."""
    check_office(data, limits)
    deck = pptx.Presentation(io.BytesIO(data))
    file = _without_hidden_shapes(deck) or io.BytesIO(data)
    elements = partition_pptx(file=file, languages=[""], include_page_breaks=False)
    blocks: list[Block] = []
    titles = []
    for page, slide in enumerate(deck.slides, 1):
        if slide.element.get("show", "1") in FALSE:
            continue
        titles.append(_slide_title(slide))
        own = [element for element in elements if element.metadata.page_number == page]
        blocks += _slide_blocks(own, titles[-1], page)
        blocks += [Block("paragraph", text, page=page) for text in _notes(slide)]
    title, metadata = read_core(deck.core_properties)
    return Parsed(blocks, title or next(filter(None, titles), ""), metadata)


def _without_hidden_shapes(deck: Any) -> io.BytesIO | None:
    """Take out the shapes that are switched off and return the deck as a file, or None when all are shown."""
    shapes = "//p:cNvPr[@hidden and not(@hidden='0' or @hidden='false')]/../parent::*[not(self::p:spTree)]"
    hidden = [shape for slide in deck.slides for shape in slide.element.xpath(shapes)]
    if not hidden:
        return None
    for shape in hidden:
        shape.getparent().remove(shape)
    file = io.BytesIO()
    deck.save(file)
    file.seek(0)
    return file


def _slide_title(slide: Any) -> str:
    shape = slide.shapes.title
    return " ".join(shape.text_frame.text.split()) if shape is not None else ""


def _notes(slide: Any) -> list[str]:
    frame = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    return [paragraph.text for paragraph in frame.paragraphs] if frame is not None else []


def _slide_blocks(elements: list[Element], title: str, page: int) -> Iterator[Block]:
    if title:
        yield Block("heading", title, 1, page)
    for element in elements:
        kind: ElementKind = "list_item" if element.category == "ListItem" else "paragraph"
        if element.category == "Title" and " ".join(element.text.split()) in title:
            continue
        if element.category == "Table":
            yield Block("table", page=page, cells=read_cells(element.metadata.text_as_html or "")[1])
        elif element.category != "Image":
            yield Block(kind, element.text, page=page)
