"""Tell what a file is from its name and its bytes, and turn bytes into text. Parses nothing."""

import codecs
import io
import re
import zipfile
from pathlib import PurePosixPath

from charset_normalizer import from_bytes

from factory.readers.contract import ReadError
from factory.readers.registry import EXTENSIONS, FILE_NAMES, OFFICE_PARTS, TEXT_FORMATS

EXECUTABLE_MAGIC = {
    b"\x7fELF": "a Linux program",
    b"\xfe\xed\xfa\xce": "a macOS program",
    b"\xfe\xed\xfa\xcf": "a macOS program",
    b"\xce\xfa\xed\xfe": "a macOS program",
    b"\xcf\xfa\xed\xfe": "a macOS program",
    b"\xca\xfe\xba\xbe": "a macOS program or Java class",
    b"\0asm": "a WebAssembly program",
}
MEDIA_MAGIC = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"SQLite format 3\0": "an SQLite database",
    b"{\\rtf": "a rich-text (RTF) file",
}
OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
MACRO_EXTENSIONS = {".docm", ".dotm", ".xlsm", ".xltm", ".xlam", ".pptm", ".potm", ".ppsm"}
BOMS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
CONTROLS = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f\ufffd]")
# Text whose only non-ASCII characters are these letters and signs is far likelier cp1252 than its neighbours.
NOT_WESTERN = re.compile(
    "[^\0-~àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ€£§°±·«»©®™\u2013\u2014\u2018-\u201e•…\xa0]"
)
# Settings with keys, as programs read them; `.env.example` and the like hold none. Uploads have lost a leading dot.
SECRET_NAME = re.compile(
    r"(?:.*\.)?env|\.?env\.(?:local|dev|development|prod|production|stage|staging|test)(?:\.local)?", re.I
)
HEAD_BYTES = 64 << 10
MAX_CONTROL_SHARE = 0.02


def detect_format(name: str, data: bytes) -> str:
    """Return the format a file is to be read as.

    Raises:
        ReadError: it is empty, a program, made for secrets, encrypted, with macros, not what its name says, or unknown.
    """
    if not data:
        raise ReadError("empty", "The file has 0 bytes: fill it or remove it.")
    suffix = PurePosixPath(name).suffix.lower()
    _refuse_programs(data)
    if SECRET_NAME.fullmatch(PurePosixPath(name).name):
        raise ReadError(
            "secrets",
            "A file of this name holds passwords and keys, which no model should learn: leave it out, or save what is "
            "worth knowing as .txt.",
        )
    if suffix in MACRO_EXTENSIONS:
        raise ReadError(
            "macros", f"A {suffix} file can hold macros, which are never run: save it without macros."
        )
    if data.startswith(OLE_MAGIC):
        raise _explain_ole(data)
    known = EXTENSIONS.get(suffix) or FILE_NAMES.get(PurePosixPath(name).name.lower())
    if b"%PDF-" in data[:1024] and known in (None, "pdf", *TEXT_FORMATS) and data.lstrip()[:5] == b"%PDF-":
        return "pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _detect_zipped(known, data)
    if known in ("pdf", "zip", *OFFICE_PARTS):
        raise ReadError(
            "corrupt", f"The content is not {known.upper()} although the name ends so: export it again."
        )
    if known is None or known in TEXT_FORMATS:
        _refuse_media(data, suffix)
    return known or _detect_text(data)


def decode_text(data: bytes) -> str:
    """Return a text file's characters: by its byte-order mark, else UTF-8, else the likeliest encoding.

    Raises:
        ReadError: the bytes are not text.
    """
    text = _decode(data)
    head = text[:HEAD_BYTES]
    if len(CONTROLS.findall(head)) > max(1, MAX_CONTROL_SHARE * len(head)):
        raise ReadError("unsupported", "The content is binary, not text: export it to a format that is read.")
    return text


def _decode(data: bytes) -> str:
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        if data.count(b"\0", 0, HEAD_BYTES) > 1:
            return data.decode("latin-1")
    western = data.decode("cp1252", errors="replace")
    if not NOT_WESTERN.search(western):
        return western
    guess = from_bytes(data[:HEAD_BYTES]).best()
    return data.decode(guess.encoding if guess else "cp1252", errors="replace")


def _refuse_programs(data: bytes) -> None:
    kind = next((kind for magic, kind in EXECUTABLE_MAGIC.items() if data.startswith(magic)), None)
    if kind is None and data.startswith(b"MZ") and b"\0" in data[:256]:
        kind = "a Windows program"
    if kind:
        raise ReadError(
            "executable", f"The content is {kind}, whatever the name says: remove it from the folder."
        )


def _refuse_media(data: bytes, suffix: str) -> None:
    kind = next((kind for magic, kind in MEDIA_MAGIC.items() if data.startswith(magic)), None)
    if kind:
        raise ReadError(
            "unsupported", f"The content is {kind}, which is not read: export its text to a known format."
        )
    if b"\0" in data[:HEAD_BYTES] and not data.startswith(tuple(mark for mark, _ in BOMS)):
        raise ReadError(
            "unsupported", f"The content is binary of no known kind ({suffix or 'no suffix'}): export it."
        )


def _explain_ole(data: bytes) -> ReadError:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return ReadError("encrypted", "The Office file is locked with a password: save it without one.")
    return ReadError(
        "unsupported", "This is an old binary Office or Outlook file: save it as docx, xlsx, pptx or eml."
    )


def _detect_zipped(known: str | None, data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ReadError(
            "corrupt", f"The zip directory cannot be read ({error}): copy or export it again."
        ) from error
    if any(name.lower().endswith("vbaproject.bin") for name in names):
        raise ReadError("macros", "The file holds macros, which are never run: save it without macros.")
    inside = next((kind for kind, part in OFFICE_PARTS.items() if part in names), None)
    if known in OFFICE_PARTS and inside != known:
        raise ReadError(
            "corrupt", f"The {known} file lacks its part {OFFICE_PARTS[known]!r}: export it again."
        )
    if inside is None and known not in (None, "zip", *TEXT_FORMATS):
        raise ReadError("corrupt", f"The content is a zip archive, not {known}: give it its right name.")
    return inside or "zip"


def _detect_text(data: bytes) -> str:
    head = decode_text(data[:HEAD_BYTES]).lstrip()[:200].lower()
    return "html" if head.startswith(("<!doctype html", "<html")) else "text"
