"""Read one source file, and the files inside it, into rows. Knows the guards, not the formats."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from factory.readers.assemble import assemble_document
from factory.readers.contract import Limits, Member, Parsed, ReadError
from factory.readers.instructions import count_instructions
from factory.readers.registry import load_reader
from factory.readers.sniff import detect_format
from factory.rows import Document, Quarantined
from factory.store import hash_bytes
from factory.text.clean import flatten_text

NOTHING_FOUND = {
    "pdf": "No text in the PDF: it is a scan or drawing; run text recognition (OCR) on it first.",
    "zip": "The archive holds no files: remove it.",
}


@dataclass
class Reading:
    """What has come out of one source file so far, and how much its containers may still unpack."""

    documents: list[Document] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    num_members: int = 0
    unpacked_bytes: int = 0


def read_source(path: str, data: bytes, limits: Limits) -> Reading:
    """Return the documents and refusals of one file; what is wrong with it ends as a reason, not an error.

    Raises:
        MemoryError: it needs more memory than allowed.
    """
    reading = Reading()
    _read(path, data, limits, reading, depth=0)
    return reading


def _read(path: str, data: bytes, limits: Limits, reading: Reading, depth: int) -> None:
    try:
        parsed, format_name = _parse(path, data, limits)
        document = assemble_document(parsed, path=path, sha256=hash_bytes(data), format_name=format_name)
        _check_text(document, parsed, limits)
    except ReadError as error:
        reading.quarantined.append(Quarantined(path=path, reason=error.reason, detail=error.detail))
        return
    if document.text:
        reading.documents.append(_note_instructions(document))
    for member in parsed.members:
        _read_member(f"{path}!/{_safe_name(member.name)}", member, limits, reading, depth + 1)


def _parse(path: str, data: bytes, limits: Limits) -> tuple[Parsed, str]:
    format_name = detect_format(path, data)
    try:
        return load_reader(format_name)(data, path, limits), format_name
    except (ReadError, MemoryError, ImportError):
        raise
    except RecursionError as error:
        raise ReadError("corrupt", f"The {format_name} file is nested too deeply: flatten it.") from error
    except Exception as error:
        reason = flatten_text(str(error))[:160] or type(error).__name__
        raise ReadError(
            "corrupt", f"The {format_name} file is damaged ({reason}): open it and save it again."
        ) from error


def _check_text(document: Document, parsed: Parsed, limits: Limits) -> None:
    if not document.text and not parsed.members:
        detail = NOTHING_FOUND.get(
            document.format, f"No text was found in the {document.format} file: remove it."
        )
        raise ReadError("no_text", detail)
    if limits.drop_instructions and (count := count_instructions(document.text)):
        raise ReadError(
            "instructions",
            f"{count} phrase(s) speak to a model, not a reader: look at it, then keep or remove it.",
        )


def _note_instructions(document: Document) -> Document:
    count = count_instructions(document.text)
    if not count:
        return document
    return document.model_copy(update={"metadata": document.metadata | {"instructions": str(count)}})


def _read_member(path: str, member: Member, limits: Limits, reading: Reading, depth: int) -> None:
    reading.num_members += 1
    reading.unpacked_bytes += len(member.data)
    refusal = member.refusal or _over_budget(member, limits, reading, depth)
    if refusal:
        reading.quarantined.append(Quarantined(path=path, reason=refusal.reason, detail=refusal.detail))
    else:
        _read(path, member.data, limits, reading, depth)


def _over_budget(member: Member, limits: Limits, reading: Reading, depth: int) -> ReadError | None:
    if reading.num_members > limits.max_archive_files:
        return ReadError(
            "zip_bomb", f"The containers hold over {limits.max_archive_files:,} files: split them."
        )
    if reading.unpacked_bytes > limits.max_archive_bytes:
        return ReadError(
            "zip_bomb", f"The containers unpack to over {limits.max_archive_bytes >> 20:,} MiB: split them."
        )
    if depth > limits.max_archive_depth:
        return ReadError(
            "nested_too_deep",
            f"It lies {depth} containers deep (limit {limits.max_archive_depth}): unpack the outer ones.",
        )
    return None


def _safe_name(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/").encode("utf-8", "backslashreplace").decode()))
