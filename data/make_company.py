"""Builds the documents of the invented company Tolvane & Daughters from their sources in `data/source`.

    python data/make_company.py             writes data/quickstart and, when it has sources, data/company
    python data/make_company.py --check     writes nothing; exit code 1 if what is on disk differs

A source named `x.docx.md` (or `.pptx.md`, `.xlsx.md`, `.pdf.md`, `.eml.md`) becomes `x.docx`; a folder named
`x.zip` becomes an archive; every other file is copied. The broken files of the quickstart set have no source,
`company_broken` makes them.
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

from company_broken import broken_files
from company_formats import WRITERS, read_zip, write_zip

DATA = Path(__file__).parent
SOURCE = DATA / "source"
SETS = ("quickstart", "company")
IGNORED = ("__pycache__", ".DS_Store", ".gitkeep")
FAKE_SECRETS = {
    "{{aws_key_id}}": "AKIA" + "TOLVANE23" + "EXAMPLE",
    "{{aws_secret}}": "tEnPaStTeN/" + "sTuMp7HoNeY+4HiVes" + "/EXAMPLEKEY",
    "{{api_token}}": "tdp_" + "live_" + "9f3kQ7wZ2mX8" + "EXAMPLE" + "b5Tn",
}
"""Put together here so that a scanner for secrets finds them in the built files only. They open nothing."""


def build_document(path: Path) -> tuple[str, bytes]:
    """Turn one source file into the name and the bytes of the document."""
    text = path.read_bytes().decode()
    for placeholder, value in FAKE_SECRETS.items():
        text = text.replace(placeholder, value)
    built = re.fullmatch(rf"(.+)\.({'|'.join(WRITERS)})\.md", path.name)
    if built is None:
        return path.name, text.encode()
    return f"{built[1]}.{built[2]}", WRITERS[built[2]](built[1], text)


def build_folder(folder: Path) -> dict[str, bytes]:
    """Build every document below a folder of sources, by path relative to it."""
    built: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.name in IGNORED:
            continue
        if path.is_file():
            name, blob = build_document(path)
            built[name] = blob
        elif path.suffix == ".zip":
            built[path.name] = write_zip(build_folder(path))
        else:
            built |= {f"{path.name}/{name}": blob for name, blob in build_folder(path).items()}
    return built


def build_all(source: Path = SOURCE) -> dict[str, bytes]:
    """Build both sets, by path relative to `data`; a set without sources is left out."""
    built = {f"{name}/{path}": blob for name in SETS for path, blob in _build_set(source / name).items()}
    return built | {f"quickstart/broken/{name}": blob for name, blob in broken_files().items()}


def _build_set(folder: Path) -> dict[str, bytes]:
    return build_folder(folder) if folder.is_dir() else {}


def on_disk(out: Path) -> dict[str, bytes]:
    """Read what stands in the built sets now."""
    files = (path for name in SETS for path in (out / name).rglob("*") if path.is_file())
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in files if IGNORED[0] not in path.parts
    }


def differences(built: dict[str, bytes], present: dict[str, bytes]) -> list[str]:
    """List the paths that are missing, left over or different."""
    return [path for path in sorted(built | present) if not _same(built.get(path), present.get(path))]


def _same(one: bytes | None, other: bytes | None) -> bool:
    """Compare bytes; archives also pass on equal members, as zlib and zlib-ng pack one text differently."""
    if one is None or other is None or one == other:
        return one == other
    try:
        return list(read_zip(one).items()) == list(read_zip(other).items())
    except zipfile.BadZipFile:
        return False


def write_all(built: dict[str, bytes], out: Path) -> None:
    """Write what differs and remove files that no source makes any more."""
    for path in differences(built, on_disk(out)):
        target = out / path
        if path not in built:
            target.unlink()
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(built[path])


def main(arguments: list[str] | None = None) -> int:
    """Build the company, or check that it is built."""
    parser = argparse.ArgumentParser(description="Build the documents of the invented company.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if what is on disk differs"
    )
    parser.add_argument("--out", type=Path, default=DATA, help="folder for the sets (default: data)")
    options = parser.parse_args(arguments)
    built = build_all()
    changed = differences(built, on_disk(options.out))
    if not options.check:
        write_all(built, options.out)
    for path in changed:
        print(f"{'differs' if options.check else 'wrote'}: {path}")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
