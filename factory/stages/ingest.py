"""The ingest stage: a folder of files in, a row a readable document out. Knows files and rows, no format."""

from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from factory.errors import IngestError
from factory.progress import Progress
from factory.readers.contract import Limits
from factory.readers.journal import Journal
from factory.readers.pool import Job, PoolSettings, parse_files
from factory.readers.registry import READER_VERSION
from factory.readers.walk import Found, find_files
from factory.store import hash_file, hash_json

MIB = 1 << 20
CODE_VERSION = 3


class IngestConfig(BaseModel):
    """Which files to read and what each may cost.

    `include` and `exclude` are globs on the path below `source`, where `**` spans folders; hidden files and
    what office programs leave behind are excluded unless `exclude` is given. With `drop_instructions`, a file
    that speaks to a language model ("ignore all previous instructions") is quarantined instead of noted.

    What exceeds a limit is quarantined: a file of more than `max_file_mib` or `max_pages`, or one that takes
    longer than `timeout_s` or more than `memory_gib` to read; an archive nested deeper than `max_archive_depth`,
    with more than `max_archive_files`, or unpacking to more than `max_archive_mib` or `max_archive_ratio` times
    its size.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Path = Field(exclude=True)
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = (
        "**/.*",
        "**/.*/**",
        "**/~$*",
        "**/Thumbs.db",
        "**/desktop.ini",
        "**/__MACOSX/**",
    )
    max_file_mib: int = Field(default=50, ge=1, le=2048)
    max_pages: int = Field(default=2000, ge=1)
    timeout_s: float = Field(default=60, gt=0, le=3600, exclude=True)
    memory_gib: float = Field(default=4.0, ge=0.5, le=64, exclude=True)
    max_archive_depth: int = Field(default=2, ge=0, le=8)
    max_archive_files: int = Field(default=10_000, ge=1)
    max_archive_ratio: int = Field(default=100, ge=2)
    max_archive_mib: int = Field(default=500, ge=1)
    drop_instructions: bool = False


def ingest(config: IngestConfig, *, work: Path, previous: Path | None, workers: int) -> dict[str, int]:
    """Read every file below the source folder and write `documents.jsonl` and `quarantine.jsonl` into `work`.

    A killed run goes on where it was when called again with the same `work`. Files that `previous`, the last
    finished corpus folder, holds in the same bytes are taken over from there.

    Returns:
        The numbers of documents, quarantined files, elements and characters, and of files reused.

    Raises:
        IngestError: the source folder is missing or empty, or none of its files could be read.
    """
    files = find_files(config.source, config.include, config.exclude)
    limits = _limits(config)
    settings = PoolSettings(limits, config.timeout_s, int(config.memory_gib * (1 << 30)), max(1, workers))
    with Journal(work, previous, reader=hash_json([READER_VERSION, asdict(limits)])) as journal:
        jobs = _refuse_or_reuse(files, limits, journal)
        with closing(parse_files(jobs, settings)) as answers, Progress("ingest", unit="files") as bar:
            for done, answer in enumerate(answers, len(files) - len(jobs) + 1):
                journal.add(answer.job.path, answer.sha256, answer.documents, answer.quarantined)
                bar.update(done, len(files))
        counts, reasons = journal.finish()
    if not counts["documents"]:
        raise IngestError(_nothing_readable(config.source, reasons))
    return counts


def fingerprint(config: IngestConfig) -> str:
    """Return one hash over the paths and bytes of the files that an ingest would look at.

    Raises:
        IngestError: the source folder is missing or empty.
    """
    files = find_files(config.source, config.include, config.exclude)
    limit = config.max_file_mib * MIB
    unread = {found.path for found in files if found.refusal or found.oversize(limit)}
    return hash_json({found.path: "" if found.path in unread else hash_file(found.file) for found in files})


def _limits(config: IngestConfig) -> Limits:
    return Limits(
        max_file_bytes=config.max_file_mib * MIB,
        max_pages=config.max_pages,
        max_archive_depth=config.max_archive_depth,
        max_archive_files=config.max_archive_files,
        max_archive_ratio=config.max_archive_ratio,
        max_archive_bytes=config.max_archive_mib * MIB,
        drop_instructions=config.drop_instructions,
    )


def _refuse_or_reuse(files: list[Found], limits: Limits, journal: Journal) -> list[Job]:
    """Settle the files that need no parsing and return jobs for the rest."""
    jobs = []
    for found in files:
        refusal = found.refusal or found.oversize(limits.max_file_bytes)
        if refusal:
            journal.refuse(found.path, refusal.reason, refusal.detail)
        elif not (journal.knows(found.path) and journal.reuse(found.path, hash_file(found.file))):
            jobs.append(Job(found.path, found.file))
    return jobs


def _nothing_readable(source: Path, reasons: Counter[str]) -> str:
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return (
        f"None of the {reasons.total()} files in {str(source)!r} could be read ({listed}): "
        "look at quarantine.jsonl for what to do with each"
    )
