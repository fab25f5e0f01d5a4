"""Tables of formats: which suffix is which format and which function reads it. Imports no reader."""

import importlib
from collections.abc import Callable

from factory.readers.contract import Limits, Parsed

Reader = Callable[[bytes, str, Limits], Parsed]

# Raise it whenever a reader gives other rows for the same bytes: files are then read again.
READER_VERSION = 3

READERS = {
    "markdown": "factory.readers.markdown:read_markdown",
    "html": "factory.readers.html:read_html",
    "text": "factory.readers.plain:read_text",
    "rst": "factory.readers.plain:read_rst",
    "docx": "factory.readers.docx:read_docx",
    "pptx": "factory.readers.pptx:read_pptx",
    "xlsx": "factory.readers.xlsx:read_xlsx",
    "csv": "factory.readers.delimited:read_csv",
    "tsv": "factory.readers.delimited:read_tsv",
    "json": "factory.readers.records:read_json",
    "jsonl": "factory.readers.records:read_jsonl",
    "eml": "factory.readers.mail:read_mail",
    "pdf": "factory.readers.pdf:read_pdf",
    "zip": "factory.readers.archive:read_zip",
    "code": "factory.readers.code:read_code",
}

CODE_SUFFIXES = (
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .go .java .c .h .cc .cpp .hpp .cs .rs .rb .php .swift .kt .kts "
    ".scala .lua .r .pl .sh .bash .zsh .ps1 .bat .sql .yaml .yml .toml .ini .cfg .conf .properties .tf "
    ".proto .graphql .css .scss .xml .vue .dockerfile"
)

EXTENSIONS = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdx": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".txt": "text",
    ".text": "text",
    ".log": "text",
    ".rst": "rst",
    ".docx": "docx",
    ".pptx": "pptx",
    ".xlsx": "xlsx",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".eml": "eml",
    ".pdf": "pdf",
    ".zip": "zip",
} | dict.fromkeys(CODE_SUFFIXES.split(), "code")

FILE_NAMES = {
    "dockerfile": "code",
    "makefile": "code",
    "readme": "markdown",
    "license": "text",
    "notice": "text",
}

# The zip member that makes a file of each Office format what it is.
OFFICE_PARTS = {"docx": "word/document.xml", "pptx": "ppt/presentation.xml", "xlsx": "xl/workbook.xml"}

TEXT_FORMATS = frozenset(["markdown", "html", "text", "rst", "csv", "tsv", "json", "jsonl", "eml", "code"])


def load_reader(format_name: str) -> Reader:
    """Return the function that reads a format, importing its module."""
    module, _, function = READERS[format_name].partition(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    return reader
