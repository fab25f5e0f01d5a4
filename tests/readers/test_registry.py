"""The tables of formats agree with each other, and nothing is imported before it is asked for."""

import subprocess
import sys

import pytest

from factory.readers import registry
from factory.readers.contract import Limits


@pytest.mark.parametrize(
    ("suffix", "format_name"),
    [(".md", "markdown"), (".htm", "html"), (".log", "text"), (".ndjson", "jsonl"), (".eml", "eml"),
     (".h", "code"), (".yaml", "code"), (".sql", "code"), (".doc", None), (".docm", None), (".png", None)],
)  # fmt: skip
def test_a_suffix_is_read_as_its_format(suffix: str, format_name: str | None) -> None:
    assert registry.EXTENSIONS.get(suffix) == format_name


def test_suffixes_are_in_lower_case_and_take_none_from_another_format() -> None:
    code = registry.CODE_SUFFIXES.split()
    assert len(code) == len(set(code)) == sum(name == "code" for name in registry.EXTENSIONS.values())
    assert set(registry.EXTENSIONS.values()) == set(registry.READERS)
    assert all(suffix[0] == "." and suffix == suffix.lower() for suffix in registry.EXTENSIONS)
    assert all(name == name.lower() and "." not in name for name in registry.FILE_NAMES)


def test_every_format_is_text_or_has_a_content_of_its_own() -> None:
    assert set(registry.READERS) - registry.TEXT_FORMATS == {"docx", "pptx", "xlsx", "pdf", "zip"}
    assert registry.TEXT_FORMATS | registry.OFFICE_PARTS.keys() | set(registry.FILE_NAMES.values()) <= set(
        registry.READERS
    )


def test_a_reader_is_a_function_of_bytes_name_and_limits() -> None:
    (table,) = registry.load_reader("csv")(b"part,kg\ncrate,64\n", "stock.csv", Limits()).blocks
    assert table.cells == (("part", "kg"), ("crate", "64"))
    with pytest.raises(KeyError, match="docm"):
        registry.load_reader("docm")


def test_the_tables_import_no_reader_and_a_reader_no_other() -> None:
    script = (
        "import sys; from factory.readers import registry\n"
        "names = {entry.partition(':')[0] for entry in registry.READERS.values()}\n"
        "print(len(names & sys.modules.keys())); registry.load_reader('csv')\n"
        "print(*sorted(names & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "factory.readers.delimited"]
