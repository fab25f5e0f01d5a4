"""An entry of the library as one file to download: a tar archive that is made while it is sent. Keeps no copy."""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from factory import store
from factory.errors import ArtifactError
from factory.web.markup import escape
from factory.web.shelf import Entry, find_entries

if TYPE_CHECKING:
    from starlette.requests import Request

PATH = "/ui/export"  # below the page's, so that what guards the page guards it, too
TYPE = "application/x-tar"
PIECE_BYTES = 1 << 20
END = bytes(2 * tarfile.BLOCKSIZE)  # what an archive closes with
EXPORTED = ("bundle", "adapter")
OWN = {"same-origin", "none"}  # what a browser says of a link on this page, and of an address that was typed


@dataclass(frozen=True)
class Member:
    """One file of an archive, with the header that goes before it."""

    path: Path
    size: int
    header: bytes

    @property
    def padding(self) -> bytes:
        """What fills the file's last block."""
        return bytes(-self.size % tarfile.BLOCKSIZE)


def members(folder: Path, name: str) -> list[Member]:
    """Return the regular files of a folder as they stand in an archive, below `name`; links are left out."""
    return [
        _member(path, f"{name}/{path.relative_to(folder).as_posix()}") for path in store.walk_files(folder)
    ]


def _member(path: Path, name: str) -> Member:
    status = path.stat()
    info = tarfile.TarInfo(name)
    info.size, info.mtime = status.st_size, int(status.st_mtime)
    return Member(path, info.size, info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def archive_bytes(files: list[Member]) -> int:
    """Return how long the archive of some files is."""
    return sum(len(file.header) + file.size + len(file.padding) for file in files) + len(END)


def pieces(files: list[Member]) -> Iterator[bytes]:
    """Yield an archive piece by piece, read from the disk as it is asked for.

    Raises:
        ArtifactError: a file became shorter, or a link, since it was listed.
    """
    for file in files:
        yield file.header
        yield from _content(file)
        yield file.padding
    yield END


def _content(file: Member) -> Iterator[bytes]:
    left = file.size
    try:
        descriptor = os.open(
            file.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        )
    except OSError as error:
        raise ArtifactError(
            f"{file.path.name} cannot be read any more ({error.strerror}): export again"
        ) from error
    with open(descriptor, "rb") as source:
        while left:
            piece = source.read(min(left, PIECE_BYTES))
            if not piece:
                raise ArtifactError(f"{file.path.name} became shorter while it was sent: export again")
            left -= len(piece)
            yield piece


def download_link(entry: Entry | None) -> str:
    """Return a link to an entry's archive as HTML; nothing for what is not exported."""
    if entry is None or entry.kind not in EXPORTED:
        return ""
    size = archive_bytes(members(entry.folder, _name(entry)))
    told = f"Download as one file ({max(size / 1e6, 0.1):,.1f} MB, .tar)"
    return (
        f'<a class="download" href="{PATH}?entry={quote(entry.label, safe="")}" download>{escape(told)}</a>'
    )


def _name(entry: Entry) -> str:
    """Return an entry's name as the folder in its archive: nothing in it leads elsewhere when it is unpacked."""
    return re.sub(r"[^\w.-]+", "_", str(entry.row["name"])).strip(".") or entry.kind


def make_export(root: Path) -> Any:
    """Return the handler of the route; what is asked for is looked up among the labels of the library."""
    from starlette.responses import PlainTextResponse, Response, StreamingResponse

    def export(request: "Request") -> Response:
        if request.headers.get("sec-fetch-site", "none") not in OWN:
            return PlainTextResponse("Open the Library tab and export there.", 403)
        entry = find_entries(root).get(request.query_params.get("entry", ""))
        if entry is None or entry.kind not in EXPORTED:
            return PlainTextResponse("There is no such entry in the library: press Refresh there.", 404)
        files = members(entry.folder, _name(entry))
        headers = {
            "content-length": str(archive_bytes(files)),
            "content-disposition": f"attachment; filename*=utf-8''{quote(_name(entry), safe='')}.tar",
            "cache-control": "no-store",
        }
        if request.method == "HEAD":
            return Response(headers=headers, media_type=TYPE)
        return StreamingResponse(pieces(files), media_type=TYPE, headers=headers)

    return export
