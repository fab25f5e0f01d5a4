"""Open zip archives safely: sizes are checked before a byte is unpacked. Knows zip, not what is inside."""

import io
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator

from factory.readers.contract import Limits, Member, Parsed, ReadError

# Below this much unpacked data a high ratio is harmless: text of blanks easily packs 1000:1.
SMALL_ZIP_BYTES = 1 << 20
SMALL_OFFICE_BYTES = 16 << 20


def read_zip(data: bytes, name: str, limits: Limits) -> Parsed:
    """Return a zip archive's files as members, in the order of their names; those not to be read say why."""
    with open_checked(data, limits) as archive:
        return Parsed(members=list(_unpack(archive, limits)))


def check_office(data: bytes, limits: Limits) -> None:
    """Refuse an Office file whose parts would unpack to too much.

    Raises:
        ReadError: it is a zip bomb or damaged.
    """
    open_checked(data, limits, small_bytes=SMALL_OFFICE_BYTES).close()


def open_checked(data: bytes, limits: Limits, small_bytes: int = SMALL_ZIP_BYTES) -> zipfile.ZipFile:
    """Open a zip archive after judging the sizes its central directory states.

    Raises:
        ReadError: it is damaged, holds too many files, or unpacks to too much.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ReadError(
            "corrupt", f"The zip directory cannot be read ({error}): copy or export it again."
        ) from error
    files = archive.infolist()
    unpacked = sum(info.file_size for info in files)
    if len(files) > limits.max_archive_files:
        raise ReadError(
            "zip_bomb", f"It holds {len(files):,} files (limit {limits.max_archive_files:,}): split it."
        )
    if unpacked > limits.max_archive_bytes:
        raise ReadError(
            "zip_bomb",
            f"It unpacks to {unpacked >> 20:,} MiB (limit {limits.max_archive_bytes >> 20:,}): "
            "unpack it yourself if you trust it.",
        )
    if unpacked > small_bytes and unpacked > limits.max_archive_ratio * len(data):
        raise ReadError(
            "zip_bomb",
            f"It unpacks {unpacked // len(data):,}-fold (limit {limits.max_archive_ratio}): "
            "unpack it yourself if you trust it.",
        )
    return archive


def _unpack(archive: zipfile.ZipFile, limits: Limits) -> Iterator[Member]:
    files = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    twice = {name for name, count in Counter(info.filename for info in files).items() if count > 1}
    for name in sorted(twice):
        yield Member(
            name, refusal=ReadError("corrupt", "The archive holds this name more than once: pack it again.")
        )
    for info in files:
        if info.filename in twice or info.filename.startswith("__MACOSX/"):
            continue
        try:
            yield Member(info.filename, _unpack_one(archive, info, limits))
        except ReadError as refusal:
            yield Member(info.filename, refusal=refusal)


def _unpack_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits) -> bytes:
    name = info.filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
        raise ReadError(
            "path_traversal", "The name points outside the archive: it is an attack or a broken packer."
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ReadError("link", "The member is a symbolic link, which is not followed: pack the file itself.")
    if info.flag_bits & 0x1:
        raise ReadError("encrypted", "The member is locked with a password: pack it without one.")
    if info.file_size > limits.max_file_bytes:
        raise ReadError(
            "too_large",
            f"It has {info.file_size >> 20:,} MiB (limit {limits.max_file_bytes >> 20:,}): "
            "split it or raise `max_file_mib`.",
        )
    try:
        with archive.open(info) as member:
            return member.read(info.file_size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ReadError("corrupt", f"The member cannot be unpacked ({error}): pack it again.") from error
