"""What Office files say about themselves, as the three libraries hand it over."""

import datetime as dt

import docx
import openpyxl
import pptx
import pytest

from factory.readers.office import read_core

WHEN = dt.datetime(2026, 2, 1, 23, 59)


def _properties(kind: str):
    if kind == "xlsx":
        return openpyxl.Workbook().properties
    return (docx.Document() if kind == "docx" else pptx.Presentation()).core_properties


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx"])
def test_every_library_gives_the_same_title_and_metadata(kind: str) -> None:
    properties = _properties(kind)
    properties.title, properties.subject, properties.version = "  Leave policy\n", "Leave", "5"
    properties.created = properties.modified = WHEN
    setattr(properties, "creator" if kind == "xlsx" else "author", "Ada")
    assert read_core(properties) == (
        "Leave policy",
        {
            "author": "Ada",
            "subject": "Leave",
            "version": "5",
            "created": "2026-02-01",
            "modified": "2026-02-01",
        },
    )


@pytest.mark.parametrize("kind", ["docx", "pptx", "xlsx"])
def test_what_the_librarys_own_template_states_is_not_taken_for_the_files(kind: str) -> None:
    title, metadata = read_core(_properties(kind))
    assert title == ""
    assert metadata.get("author") not in {"python-docx", "openpyxl"}
    assert not {"subject", "version"} & metadata.keys()


def test_a_title_that_only_begins_like_the_stock_one_stays() -> None:
    properties = _properties("docx")
    properties.title = "Word document"
    assert read_core(properties)[0] == ""
    properties.title = "Word documents we keep"
    assert read_core(properties)[0] == "Word documents we keep"
