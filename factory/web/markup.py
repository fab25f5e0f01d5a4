"""Texts and tables as HTML that no text can break out of. Knows no component and no page."""

import html
import re
from dataclasses import dataclass

CODE = re.compile("&#96;((?:(?!&#96;).)+)&#96;", re.DOTALL)
MARKUP_START = re.compile(r"<(?=[a-zA-Z/!?])")
# What gradio's HTML component would read as part of a template.
TEMPLATE_MARKS = {ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;", ord("`"): "&#96;"}


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names its rows. A folded one shows its title alone until it is opened."""

    title: str
    head: tuple[str, ...]
    rows: list[list[str]]
    folded: bool = False


def to_html(*tables: Table) -> str:
    """Return tables as HTML whose texts cannot become markup."""
    return "".join(_table_html(table) for table in tables)


def _table_html(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in table.rows
    )
    title = escape(table.title)
    text = (
        f'<div class="table-scroll" style="overflow-x: auto"><table><caption>{title}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return (
        f"<details><summary>{title} ({len(table.rows)})</summary>{text}</details>" if table.folded else text
    )


def paragraph(text: str) -> str:
    """Return a text as a paragraph of HTML that screen readers announce when it changes; `this` reads as code."""
    shown = CODE.sub(r"<code>\1</code>", escape(text))
    return f'<p role="status">{shown}</p>'


def escape(text: str) -> str:
    """Return a text that is no markup to a browser and no template to gradio."""
    return html.escape(text).translate(TEMPLATE_MARKS)


def chat_text(text: str) -> str:
    """Return a text as gradio's chat, which takes what it shows for HTML, shows it unchanged.

    Only what would be markup is escaped, since the chat's copy buttons copy what they are given; `html.unescape` gives
    the text back.
    """
    if html.unescape(text) != text:
        text = text.replace("&", "&amp;")
    return MARKUP_START.sub("&lt;", text)
