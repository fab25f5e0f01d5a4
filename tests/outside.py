"""Watch the places outside an output folder where a program might write: home, caches, temporary and current folder."""

import tempfile
from pathlib import Path

import pytest

FOLDERS = {
    "HOME": "home",
    "TMPDIR": "temporary",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
}
CURRENT = "current"


class Outside:
    """Empty folders that stand for everything outside, for as long as a test runs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the folders and point this process, and those it starts, at them."""
        self._folder = folder
        for variable, name in {**FOLDERS, "": CURRENT}.items():
            (folder / name).mkdir(parents=True)
            if variable:
                monkeypatch.setenv(variable, str(folder / name))
        monkeypatch.setattr(tempfile, "tempdir", None)  # it is remembered once it was asked for
        monkeypatch.chdir(folder / CURRENT)

    def written(self) -> list[str]:
        """Return what has been written there."""
        found = {path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*")}
        return sorted(found - {*FOLDERS.values(), CURRENT})
