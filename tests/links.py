"""Checks that every relative link in the Markdown files leads to a file; run by `make check`."""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def main() -> int:
    """Print dead links and return how many there are."""
    root = Path(__file__).parent.parent
    skipped = {"data", ".venv", "build"}
    files = [path for path in root.rglob("*.md") if not skipped & set(path.relative_to(root).parts)]
    dead = [
        f"{path.relative_to(root)}: {target}"
        for path in files
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    sys.stdout.write("".join(f"dead link in {line}\n" for line in dead))
    sys.stdout.write(f"{len(files)} Markdown files, {len(dead)} dead links\n")
    return min(1, len(dead))


if __name__ == "__main__":
    sys.exit(main())
