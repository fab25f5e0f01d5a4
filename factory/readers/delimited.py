"""Read CSV and TSV as one table. Values stay as written: '007' keeps its zeros, an empty cell stays empty.

The standard library's reader is used, not unstructured's: that one goes through pandas, which guesses types.
"""

import csv
import io

from factory.readers.contract import Block, Limits, Parsed
from factory.readers.sniff import decode_text
from factory.text.clean import clean_text

DELIMITERS = ",;\t|"
SAMPLE_CHARS = 64 << 10


def read_csv(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a CSV file as one table; the delimiter is found out."""
    text = clean_text(decode_text(data))
    return _read(text, _find_delimiter(text))


def read_tsv(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a tab-separated file as one table."""
    return _read(clean_text(decode_text(data)), "\t")


def _find_delimiter(text: str) -> str:
    """Return the delimiter that splits the first lines into the most columns, evenly."""
    lines = text[:SAMPLE_CHARS].split("\n")[:50]

    def columns(delimiter: str) -> tuple[float, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter) if row]
        common = max(set(widths), key=lambda width: (widths.count(width), width), default=1)
        return (widths.count(common) / len(widths) if widths and common > 1 else 0.0, common)

    return max(DELIMITERS, key=columns)


def _read(text: str, delimiter: str) -> Parsed:
    csv.field_size_limit(1 << 24)
    rows = [tuple(row) for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    return Parsed([Block("table", cells=tuple(rows))])
