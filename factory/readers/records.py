"""Read JSON and JSON Lines: lists of flat records as tables, all else as headings and fields. No schema."""

import json
from collections.abc import Iterator
from typing import Any

from factory.readers.assemble import prettify_name
from factory.readers.contract import Block, Limits, Parsed, ReadError
from factory.readers.sniff import decode_text
from factory.text.clean import clean_text

MAX_DEPTH = 60
MAX_COLUMNS = 40
TITLE_KEYS = ("title", "name", "id")


def read_json(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a JSON value's records as tables and its other values as `key: value` fields."""
    return _parse_values(_load(clean_text(decode_text(data))), name)


def read_jsonl(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return the records of a JSON Lines file; a line that is not JSON makes the file corrupt."""
    lines = clean_text(decode_text(data)).split("\n")
    return _parse_values([_load(line) for line in lines if line.strip()], name)


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ReadError("corrupt", "The JSON is nested too deeply: flatten it.") from error
    except ValueError as error:
        raise ReadError("corrupt", f"The JSON is damaged ({error}): repair it.") from error


def _parse_values(value: Any, name: str) -> Parsed:
    title = value.get("title") if isinstance(value, dict) else None
    return Parsed(list(_value_blocks(value, "", 1)), title if isinstance(title, str) else prettify_name(name))


def _value_blocks(value: Any, key: str, level: int) -> Iterator[Block]:
    """Yield the blocks of a value that stands under a key; nested objects are headings one level down."""
    if level > MAX_DEPTH:
        raise ReadError("corrupt", f"The JSON is nested over {MAX_DEPTH} levels: flatten it.")
    if _is_plain(value):
        if text := _show(value):
            yield Block("field", f"{key}: {text}") if key else Block("paragraph", text)
    elif isinstance(value, dict):
        yield from _object_blocks(value, key, level)
    else:
        yield from _list_blocks(value, key, level)


def _object_blocks(value: dict[str, Any], key: str, level: int) -> Iterator[Block]:
    if key:
        yield Block("heading", key, level)
    for inner in sorted(value, key=lambda name: not _is_plain(value[name])):
        yield from _value_blocks(value[inner], inner, level + bool(key))


def _list_blocks(value: list[Any], key: str, level: int) -> Iterator[Block]:
    columns = _columns(value)
    if columns:
        if key:
            yield Block("heading", key, level)
        yield Block(
            "table",
            cells=(tuple(columns), *(tuple(_show(row.get(name)) for name in columns) for row in value)),
        )
        return
    for number, inner in enumerate(value, 1):
        named = (
            next((str(inner[name]) for name in TITLE_KEYS if inner.get(name)), "")
            if isinstance(inner, dict)
            else ""
        )
        yield from _value_blocks(inner, named or f"{key} {number}".strip(), level)


def _columns(value: list[Any]) -> list[str]:
    """Return the keys of a list of flat records, in the order they first occur; empty for any other list."""
    if not all(isinstance(row, dict) and all(map(_is_plain, row.values())) for row in value):
        return []
    columns = list(dict.fromkeys(name for row in value for name in row))
    return columns if len(columns) <= MAX_COLUMNS else []


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(inner, dict | list) for inner in value)
    return not isinstance(value, dict)


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(_show, value)) if isinstance(value, list) else str(value)
