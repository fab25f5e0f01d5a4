"""Keeps a page's handlers from being handed files that were never uploaded. Knows gradio's uploads, no component.

A mounted page, other than a launched one, makes gradio copy whatever path or address a call names into the folder
that it serves files from, before any handler is asked: `gradio.processing_utils._check_allowed`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "_refuses_foreign_files"
MAX_DEPTH = 32


def refuse_foreign_files(gr: Any, page: Any) -> None:
    """Have every call of a page refused that names a file outside gradio's upload folder, or an address."""
    if hasattr(page, MARK):
        return
    folder, real = Path(gr.utils.get_upload_folder()), page.preprocess_data

    async def preprocess_data(block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        if any(not is_uploaded(path, folder) for path in named_files(inputs)):
            raise gr.Error("A file was named that was not uploaded: add it again", print_exception=False)
        return await real(block_fn, inputs, *arguments, **options)

    page.preprocess_data = preprocess_data
    setattr(page, MARK, True)


def is_uploaded(path: Any, folder: Path) -> bool:
    """Tell whether a path leads, all links followed, to something inside the upload folder."""
    try:
        return isinstance(path, str) and Path(path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def named_files(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield whatever a value of a call gives as the path of a file; what is nested too deep counts as one, too."""
    if depth > MAX_DEPTH:
        yield None
    elif isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        for child in value.values():
            yield from named_files(child, depth + 1)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from named_files(child, depth + 1)
