"""Documents that came through the browser: checked, looked at, named safely and copied. Knows no job and no page."""

import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.errors import UsageError
from factory.readers.contract import Limits, ReadError
from factory.readers.sniff import detect_format
from factory.report.model import QuarantinedFile

MAX_FILES, MAX_TOTAL_BYTES = 500, 200 << 20
MAX_NAME_CHARACTERS = 120
MAX_NAME_BYTES = 240  # file systems end at 255, and a number may be put into the name
MAX_SUFFIX_CHARACTERS = 16
UNSEEN = frozenset({"Cc", "Cf", "Cs"})  # controls, marks that turn text around, halves of characters
FOREIGN = re.compile(r'[<>:"|?*]')  # what Windows has no place for in a name
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\.|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Upload:
    """A file that looks readable, and its size."""

    name: str
    size_bytes: int


def look_at(paths: Sequence[Path]) -> tuple[list[Upload], list[QuarantinedFile]]:
    """Return the files that look readable and those that a run would refuse, by name, size and first bytes.

    Nothing is parsed, so that a run may still refuse more of them.
    """
    readable, refused = [], []
    for path in paths:
        try:
            readable.append(Upload(safe_name(path.name), _check(path)))
        except ReadError as refusal:
            name = safe_name(path.name)
            refused.append(QuarantinedFile(path=name, reason=refusal.reason, detail=refusal.detail))
    return readable, refused


def _check(path: Path) -> int:
    """Return a file's size in bytes unless ingest would refuse it unparsed."""
    try:
        if path.is_symlink() or not path.is_file():
            raise ReadError("link", "It is a link or no file: upload the file itself.")
        size, limit = path.stat().st_size, Limits().max_file_bytes
        if size > limit:
            raise ReadError("too_large", f"It has {size >> 20} MiB (limit {limit >> 20}): split it.")
        detect_format(path.name, path.read_bytes())
    except OSError as error:
        raise ReadError("unreadable", f"It cannot be read ({error.strerror}): upload it again.") from error
    return size


def accept_documents(paths: Sequence[Path], into: Path) -> list[Path]:
    """Copy uploaded files into a new folder under safe names and return the copies, in the same order.

    Raises:
        UsageError: there are none or too many, they are too large together, or one is a link, no file or unreadable.
    """
    if not paths:
        raise UsageError("There are no documents to train on: add at least one file")
    if len(paths) > MAX_FILES:
        raise UsageError(
            f"{len(paths)} files were given, {paths[MAX_FILES].name!r} is beyond the limit of {MAX_FILES}: "
            "put some of them into a zip archive"
        )
    into.mkdir(parents=True)
    taken: set[str] = set()
    copies, left = [], MAX_TOTAL_BYTES
    for path in paths:
        copies.append(into / _unused(safe_name(path.name), taken))
        left -= _copy(path, copies[-1], left)
    return copies


def safe_name(name: str) -> str:
    """Return a file name that is harmless on every system: no folders, no hidden or reserved names, none too long."""
    base = name.replace("\\", "/").rpartition("/")[2]
    seen = "".join(
        letter for letter in base if letter.isspace() or unicodedata.category(letter) not in UNSEEN
    )
    plain = FOREIGN.sub("_", " ".join(unicodedata.normalize("NFC", seen).split()))
    plain = plain.lstrip(". ").rstrip(". ")
    if RESERVED.match(plain):
        plain = f"_{plain}"
    return _shorten(plain) or "document"


def _shorten(name: str, mark: str = "") -> str:
    """Cut a name's stem until it fits, with a mark put before the suffix; a very long suffix counts as stem."""
    stem, suffix = os.path.splitext(name)
    if len(suffix) > MAX_SUFFIX_CHARACTERS:
        stem, suffix = name, ""
    stem = stem[: MAX_NAME_CHARACTERS - len(mark) - len(suffix)]
    while len(f"{stem}{mark}{suffix}".encode()) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return f"{stem.rstrip('. ')}{mark}{suffix}"


def _unused(name: str, taken: set[str]) -> str:
    """Return the name, or the first numbered one that differs from all before in more than capitals."""
    chosen, number = name, 1
    while chosen.casefold() in taken:
        number += 1
        chosen = _shorten(name, f"-{number}")
    taken.add(chosen.casefold())
    return chosen


def _copy(source: Path, target: Path, left: int) -> int:
    """Copy one file and return its size in bytes; what was opened is what is checked."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = "it is a link: upload the file itself" if source.is_symlink() else f"{error.strerror}"
        raise UsageError(f"{source.name!r} cannot be taken: {why}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{source.name!r} cannot be taken: it is no file; upload documents one by one")
        if found.st_size > left:
            limit = MAX_TOTAL_BYTES >> 20
            raise UsageError(
                f"With {source.name!r} the files are larger than {limit} MiB together: leave some out"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file, target.open("xb") as copy:
            shutil.copyfileobj(file, copy)
    finally:
        os.close(descriptor)
    return found.st_size
