"""A bundle's manifest and checksums: what is in it, what it came from, and whether it is still that. Writes no model.

`SHA256SUMS` covers every file but itself and `record.json`, which the pipeline adds when the bundle is whole.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from factory import store
from factory.artifacts import RECORD
from factory.errors import ArtifactError, ExportError
from factory.scores import Score

MANIFEST, SUMS, MODELFILE = "manifest.json", "SHA256SUMS", "Modelfile"
SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class Frozen(BaseModel):
    """A frozen record whose unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Gate(Frozen):
    """One quality gate: what was measured on which subject against which limit."""

    name: str
    subject: str
    value: float | str | None
    limit: float | str | None
    passed: bool


class BaseIdentity(Frozen):
    """The base model; `sha256` identifies its weights and template."""

    name: str
    sha256: str
    licence: str
    source: str


class Origin(Frozen):
    """The artefact a stage made: `key` says what was asked for, `content` which bytes came out."""

    key: str
    content: str


class BundleFile(Frozen):
    """One file of a bundle; `path` is relative to it."""

    path: str
    bytes: int
    sha256: str


class Sampling(Frozen):
    """The parameters the bundle is served with."""

    num_ctx: int
    num_predict: int
    temperature: float
    stop: tuple[str, ...]


class Manifest(Frozen):
    """Everything a bundle says about itself.

    `default_file` is the GGUF file that serves when none is named; `left_out` are the files whose checks failed.
    `files` are all but the manifest and the checksums themselves.
    """

    schema_version: Literal[1] = 1
    name: str
    base: BaseIdentity
    system: str
    default_file: str
    sampling: Sampling
    lineage: dict[str, Origin]
    counts: dict[str, Any]
    files: tuple[BundleFile, ...]
    left_out: tuple[str, ...]
    gates: tuple[Gate, ...]
    scores: tuple[Score, ...]


def read_gates(path: Path) -> list[Gate]:
    """Return the gates that a verification wrote.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        return TypeAdapter(list[Gate]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{str(path)!r} is missing or damaged: delete its folder and run verify"
        ) from error


def describe_unmet(gates: Iterable[Gate]) -> str:
    """Return the gates that were not met, each with both numbers, or nothing when all were."""
    unmet = [gate for gate in gates if not gate.passed]
    listed = "; ".join(f"{gate.name} of {gate.subject} is {gate.value}, limit {gate.limit}" for gate in unmet)
    return f"{len(unmet)} quality gate(s) not met: {listed}" if unmet else ""


def list_files(folder: Path, known: tuple[BundleFile, ...] = ()) -> tuple[BundleFile, ...]:
    """Return every file of a bundle but manifest, checksums and record; `known` ones are not hashed again."""
    hashed = {file.path: file for file in known}
    names = {path.relative_to(folder).as_posix(): path for path in store.walk_files(folder)}
    return tuple(
        hashed.get(name) or BundleFile(path=name, bytes=path.stat().st_size, sha256=store.hash_file(path))
        for name, path in names.items()
        if name not in {MANIFEST, SUMS, RECORD}
    )


def all_files(folder: Path, manifest: Manifest) -> tuple[BundleFile, ...]:
    """Return the files of a whole bundle: those of its manifest, the manifest itself and the checksums."""
    own = (folder / MANIFEST, folder / SUMS)
    return manifest.files + tuple(
        BundleFile(path=path.name, bytes=path.stat().st_size, sha256=store.hash_file(path)) for path in own
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and, last, the checksums of all files."""
    store.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    sums = {file.path: file.sha256 for file in manifest.files} | {
        MANIFEST: store.hash_file(folder / MANIFEST)
    }
    store.write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a bundle.

    Raises:
        ExportError: there is none, or it is damaged or of another version.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(
            f"{folder} is not a bundle: it holds no {MANIFEST}; run the export stage"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{folder / MANIFEST} is damaged or of another version: export the bundle again"
        ) from error


def verify_bundle(folder: Path) -> list[str]:
    """Return what is wrong with a bundle, a line each; an empty list means that every byte is as exported."""
    try:
        manifest = read_manifest(folder)
        sums = _read_sums(folder)
    except ExportError as error:
        return [str(error)]
    present = {path.relative_to(folder).as_posix(): path for path in store.walk_files(folder)}
    problems = [f"{name}: stands in {SUMS} but is missing" for name in sorted(sums.keys() - present.keys())]
    extra = present.keys() - sums.keys() - {SUMS, RECORD}
    problems += [f"{name}: is not listed in {SUMS}" for name in sorted(extra)]
    links = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink())
    problems += [f"{name}: is a link, not a file" for name in sorted(links)]
    for name in sorted(sums.keys() & present.keys()):
        if store.hash_file(present[name]) != sums[name]:
            problems.append(f"{name}: its bytes are not those of the checksum in {SUMS}")
    return problems + _check_manifest(manifest, sums, present)


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{folder} holds no readable {SUMS}: export the bundle again") from error
    sums = {}
    for number, line in enumerate(lines, 1):
        match = SUM_LINE.fullmatch(line)
        if not match or _leaves_folder(match[2]):
            raise ExportError(
                f"{SUMS} line {number} is not `<sha256>  <file of the bundle>`: export the bundle again"
            )
        sums[match[2]] = match[1]
    return sums


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _check_manifest(manifest: Manifest, sums: dict[str, str], present: dict[str, Path]) -> list[str]:
    problems = []
    if MANIFEST not in sums:
        problems.append(f"{MANIFEST}: is not listed in {SUMS}")
    listed = {file.path: file for file in manifest.files}
    for name in sorted((sums.keys() - {MANIFEST}) ^ listed.keys()):
        problems.append(f"{name}: stands in only one of {MANIFEST} and {SUMS}")
    for name, file in sorted(listed.items()):
        if sums.get(name, file.sha256) != file.sha256:
            problems.append(f"{name}: {MANIFEST} and {SUMS} name different checksums")
        if name in present and present[name].stat().st_size != file.bytes:
            problems.append(f"{name}: has {present[name].stat().st_size} bytes, {MANIFEST} says {file.bytes}")
    for name in (manifest.default_file, MODELFILE):
        if name not in listed:
            problems.append(f"{name}: the bundle needs it and {MANIFEST} does not list it")
    return problems
