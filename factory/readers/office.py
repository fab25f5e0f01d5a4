"""Read the core properties that Word, PowerPoint and Excel files share. Knows no part of their content."""

from typing import Any

# What the libraries' own templates state.
STOCK_TITLES = {"word document", "powerpoint presentation"}
STOCK_AUTHORS = {"python-docx", "openpyxl"}


def read_core(properties: Any) -> tuple[str, dict[str, str]]:
    """Return the title and the metadata in an Office file's core properties."""
    title = (properties.title or "").strip()
    author = getattr(properties, "author", None) or getattr(properties, "creator", None)
    metadata = {"author": author, "subject": properties.subject, "version": properties.version}
    for key in ("created", "modified"):
        moment = getattr(properties, key)
        metadata[key] = moment.date().isoformat() if moment else ""
    metadata = {key: value for key, value in metadata.items() if value and value not in STOCK_AUTHORS}
    return ("" if title.lower() in STOCK_TITLES else title), metadata
