"""What must not leave in a bundle: local paths and the names of the user and the machine. Finds, never repairs."""

import getpass
import re
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

from factory import store
from factory.errors import ExportError
from factory.weights.gguf_header import check_gguf_header

# Whoever is called like this is anyone; the words stand in ordinary texts, too.
ANYBODY = re.compile(
    "admin|administrator|circleci|codespace|debian|docker|guest|host|jovyan|localhost|node|nobody|root|runner|server"
    "|ubuntu|user|vagrant|vscode|worker"
)
MIN_NAME_LENGTH = 4
MIN_FOLDER_LENGTH = 5
SAFETENSORS_LENGTH_BYTES = 8
LOCAL_PATH = re.compile(
    rb"(?<![\w:/.~@-])/(?:home|Users|root|tmp|mnt|media|private/var|var/tmp|var/folders)/[\w.@\x80-\xff-]{2,}"
    rb"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\{1,2}|/)(?:Users|Documents and Settings|ProgramData|Windows|[Tt]emp)[\\/]"
    rb"|file:///"
)


def refuse_leaks(
    folder: Path, *, local_folders: Iterable[Path], known_words: str, quotes: Path | None = None
) -> None:
    """Check every file of a bundle: texts whole, GGUF and safetensors files up to their weights.

    Args:
        folder: the bundle.
        local_folders: folders of this machine that no file may mention.
        known_words: text the user chose to publish; a name that stands in it may stand anywhere.
        quotes: a folder in it that holds the documents' own words, whose paths and names are theirs.

    Raises:
        ExportError: a file mentions a local path, the user or the machine.
    """
    folders = {
        str(path.resolve()) for path in (*local_folders, Path.home(), Path.cwd(), Path(tempfile.gettempdir()))
    }
    places = sorted(
        (place.encode() for place in folders if len(place) >= MIN_FOLDER_LENGTH), key=len, reverse=True
    )
    names = [name for name in _own_names() if not _stands_in(name, known_words)]
    for path in store.walk_files(folder):
        if quotes in path.parents:
            continue
        raw, text = _readable_part(path)
        leak = _find_path(raw, places) or next((name for name in names if _stands_in(name, text)), None)
        if leak:
            raise ExportError(
                f"The bundle file {path.relative_to(folder).as_posix()!r} mentions {leak!r}, which belongs to this "
                "machine: make the stage that wrote it leave that out, then run export again"
            )


def _own_names() -> list[str]:
    names = {socket.gethostname().split(".")[0]}
    try:
        names.add(getpass.getuser())
    except (KeyError, OSError):  # a container's user may have a number and no name
        names.add("")
    return sorted(
        name for name in names if len(name) >= MIN_NAME_LENGTH and not ANYBODY.fullmatch(name.lower())
    )


def _stands_in(name: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text) is not None


def _find_path(raw: bytes, places: Iterable[bytes]) -> str | None:
    for place in places:
        if re.search(rb"(?<![\w.-])" + re.escape(place) + rb"(?![\w-])", raw):
            return place.decode()
    found = LOCAL_PATH.search(raw)
    return found.group().decode("utf-8", "replace") if found else None


def _readable_part(path: Path) -> tuple[bytes, str]:
    """Return the bytes to search for paths and the text to search for names.

    A GGUF file's vocabulary is full of ordinary words, so names are looked for in its single strings only.
    """
    if path.suffix == ".gguf":
        header = check_gguf_header(path)
        length = path.stat().st_size - sum(tensor.size_bytes for tensor in header.tensors)
        return _head(path, length), "\n".join(
            value for value in header.keys.values() if isinstance(value, str)
        )
    if path.suffix == ".safetensors":
        length = int.from_bytes(_head(path, SAFETENSORS_LENGTH_BYTES), "little")
        raw = _head(path, SAFETENSORS_LENGTH_BYTES + length)
    else:
        raw = path.read_bytes()
    return raw, raw.decode("utf-8", "replace")


def _head(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(min(length, path.stat().st_size))
