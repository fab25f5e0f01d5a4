"""What has been built: adapters and bundles on this disk, their lineage and scores. Reads folders only."""

from pathlib import Path
from typing import Any

from factory import store
from factory.errors import ArtifactError, UsageError

PLACES = ("adapters/*", "build/*/bundle", "build/*/adapter")


def find(root: Path) -> list[dict[str, Any]]:
    """Return one row for each bundle and for each adapter that has no bundle yet, sorted by path."""
    rows = []
    for pattern in PLACES:
        for folder in sorted(root.glob(pattern)):
            row = read_entry(folder, root)
            if row and not (folder.name == "adapter" and (folder.parent / "bundle").is_dir()):
                rows.append(row)
    return rows


def read_entry(folder: Path, root: Path) -> dict[str, Any] | None:
    """Return what a folder holds, or None when it is neither a bundle nor an adapter.

    One whose manifest or configuration cannot be read is of the kind `damaged`.
    """
    path = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else str(folder)
    try:
        row = _read_bundle(folder) or _read_adapter(folder)
    except (OSError, ArtifactError, KeyError, TypeError):
        row = {"name": _name(folder), "kind": "damaged", "base": {"name": "-"}, "scores": []}
    return {**row, "path": path} if row else None


def _read_bundle(folder: Path) -> dict[str, Any] | None:
    if not (folder / "manifest.json").is_file():
        return None
    manifest = store.read_json(folder / "manifest.json")
    base = {**manifest["base"], "name": str(manifest["base"]["name"])}
    return {**manifest, "name": str(manifest["name"]), "kind": "bundle", "base": base}


def _read_adapter(folder: Path) -> dict[str, Any] | None:
    if not (folder / "adapter_config.json").is_file():
        return None
    config = store.read_json(folder / "adapter_config.json")
    return {
        "name": _name(folder),
        "kind": "adapter",
        "base": {"name": str(config["base_model_name_or_path"])},
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "scores": [],
    }


def _name(folder: Path) -> str:
    return folder.resolve().parent.name if folder.name in {"adapter", "bundle"} else folder.resolve().name


def find_one(root: Path, name: str) -> dict[str, Any]:
    """Return the entry of a name or a folder.

    Raises:
        UsageError: there is no such entry.
    """
    if Path(name).is_dir() and (row := read_entry(Path(name), root)):
        return row
    rows = find(root)
    for row in rows:
        if row["name"] == name:
            return row
    known = ", ".join(sorted({row["name"] for row in rows})) or "nothing has been built yet"
    raise UsageError(f"There is no adapter or bundle {name!r} here: {known}")


def headline(row: dict[str, Any]) -> str:
    """Return the adapter's score on unseen phrasings, or a dash."""
    for score in row.get("scores", []):
        if score["kind"] == "adapter" and score["question_set"] == "unseen_phrasing":
            return f"{score['accuracy']:.0%} of {score['n']}"
    return "-"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the list as text."""
    if not rows:
        return "Nothing here yet: run `factory run recipes/quickstart.yaml`"
    lines = [f"{'name':<24} {'kind':<8} {'base':<26} {'unseen phrasing':<16} path"]
    for row in rows:
        lines.append(
            f"{row['name']:<24} {row['kind']:<8} {row['base']['name']:<26} {headline(row):<16} {row['path']}"
        )
    return "\n".join(lines)


def card(row: dict[str, Any]) -> str:
    """Return one entry as text: lineage, files, gates and scores."""
    lines = [f"{row['name']} ({row['kind']})", f"  path  {row['path']}", f"  base  {row['base']['name']}"]
    for key in ("rank", "alpha"):
        if key in row:
            lines.append(f"  {key}  {row[key]}")
    for folder, origin in row.get("lineage", {}).items():
        lines.append(
            f"  made from  {folder:<11} asked {origin['key'][:12]}  content {origin['content'][:12]}"
        )
    files = row.get("files", [])
    width = max((len(file["path"]) for file in files), default=0)
    for file in files:
        lines.append(
            f"  file  {file['path']:<{width}} {file['bytes']:>12,} bytes  sha256 {file['sha256'][:12]}"
        )
    for gate in row.get("gates", []):
        result = "passed" if gate["passed"] else "FAILED"
        lines.append(f"  gate  {gate['name']:<24} {gate['subject']:<22} {result}")
    for score in row.get("scores", []):
        lines.append(
            f"  score {score['model']:<24} {score['method']:<12} {score['question_set']:<16} "
            f"{score['accuracy']:.1%} [{score['low']:.1%}, {score['high']:.1%}] n={score['n']}"
        )
    return "\n".join(lines)
