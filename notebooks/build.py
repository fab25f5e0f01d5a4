"""Writes the notebooks: from each `NN_name.py` the `NN_name.ipynb` beside it, with the cells of `shared.py` put in.

python notebooks/build.py [--check]    --check writes nothing and exits 1 if a file on disk differs
"""

import re
import sys
from pathlib import Path

import jupytext
import nbformat

# GitHub's owner/name, where badges lead and the install cell clones from. Set it, then run `make docs`.
REPOSITORY = "OWNER/adapter-factory"
BRANCH = "main"
FOLDER = Path(__file__).parent
SHARED = FOLDER / "shared.py"
INCLUDE = "# from shared.py"
HIDDEN = '{ display-mode: "form" }'  # in a title: Colab shows the fields of the cell, and the code on demand
COLAB = "https://colab.research.google.com"
UNPUBLISHED = (
    "There is no public repository yet, so the badge leads nowhere: "  # until REPOSITORY has an owner
)
POINTER = (
    f"{UNPUBLISHED if REPOSITORY.startswith('OWNER/') else ''}Badge and install cell point to `{REPOSITORY}`, which is "
    "`REPOSITORY` in `notebooks/build.py` (a fork: `CONTRIBUTING.md`); the install cell has a field for it as well."
)


def sources() -> list[Path]:
    """Return the py:percent sources, one a notebook."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def build(source: Path) -> str:
    """Return a source as a notebook without outputs; the same text gives the same bytes."""
    read = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    shared = {cell.metadata["title"]: cell for cell in _read_shared() if "title" in cell.metadata}
    cells = [shared[cell.metadata["title"]] if cell.source == INCLUDE else cell for cell in read.cells]
    notebook = nbformat.v4.new_notebook(
        cells=[_finish(cell, source.stem) for cell in cells], metadata=_metadata(read.metadata)
    )
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def _read_shared() -> list[nbformat.NotebookNode]:
    return jupytext.reads(SHARED.read_text(encoding="utf-8"), fmt="py:percent").cells


def _finish(cell: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Return a cell with its title as its id, and with what stands in double braces filled in."""
    notebook = f"{COLAB}/github/{REPOSITORY}/blob/{BRANCH}/notebooks/{name}.ipynb"
    values = {
        "badge": f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({notebook})",
        "pointer": POINTER,
        "repository": f"https://github.com/{REPOSITORY}",
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], cell.source)
    identity = re.sub(r"[^a-z0-9]+", "-", cell.metadata["title"].lower()).strip("-")
    metadata = {key: value for key, value in cell.metadata.items() if key != "title"}
    if cell.cell_type == "markdown":
        return nbformat.v4.new_markdown_cell(text, id=identity, metadata=metadata)
    if HIDDEN in text.split("\n")[0]:
        metadata["cellView"] = "form"
    return nbformat.v4.new_code_cell(text, id=identity, metadata=metadata)


def _metadata(header: nbformat.NotebookNode) -> dict[str, object]:
    """Return a notebook's metadata; its source's header says what hardware Colab is asked for."""
    made: dict[str, object] = {
        "colab": {"provenance": [], **header.get("colab", {})},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return made | ({"accelerator": header["accelerator"]} if "accelerator" in header else {})


def main() -> int:
    """Write the notebooks, or compare them."""
    made = {source.with_suffix(".ipynb"): build(source) for source in sources()}
    different = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        sys.stdout.write("".join(f"out of date: {path.name}: run `make docs`\n" for path in different))
        return min(1, len(different))
    for path in different:
        path.write_text(made[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
