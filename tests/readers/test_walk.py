import os

import pytest

from factory.errors import IngestError
from factory.readers.walk import find_files


def paths(folder, include=("**",), exclude=()):
    return [item.path for item in find_files(folder, include, exclude)]


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_globs_span_folders_with_two_stars_only(tmp_path):
    fill(tmp_path, "a.md", "b.txt", "x/c.md", "x/y/d.md", ".git/e.md", "x/.hidden")
    assert paths(tmp_path, ["*.md"]) == ["a.md"]
    assert paths(tmp_path, ["**/*.md"], ["**/.*/**"]) == ["a.md", "x/c.md", "x/y/d.md"]
    assert paths(tmp_path, ["x/**"], ["**/.*"]) == ["x/c.md", "x/y/d.md"]
    assert paths(tmp_path, ["[!b]?md", "b.*"]) == ["a.md", "b.txt"]


def test_links_are_named_and_not_followed(tmp_path):
    fill(tmp_path, "in/a.md", "out/b.md")
    (tmp_path / "in/link.md").symlink_to(tmp_path / "out/b.md")
    (tmp_path / "in/folder").symlink_to(tmp_path / "out")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    found = {
        item.path: item.refusal and item.refusal.reason for item in find_files(tmp_path / "in", ["**"], [])
    }
    assert found == {"a.md": None, "folder": "link", "link.md": "link", "loop": "link"}


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    assert [item.refusal.reason for item in find_files(tmp_path, ["**"], [])] == ["unsupported"]


def test_files_that_may_not_be_opened_are_unreadable(tmp_path, monkeypatch):
    fill(tmp_path, "a.md")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not str(path).endswith("a.md"))
    assert [item.refusal.reason for item in find_files(tmp_path, ["**"], [])] == ["unreadable"]


def test_names_that_are_not_utf8_or_hold_line_ends_are_ids(tmp_path):
    (tmp_path / "two\nlines.md").write_text("x")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.md", "w") as file:
        file.write("x")
    assert paths(tmp_path) == ["caf\\xe9.md", "two\nlines.md"]


def test_a_source_without_files_is_an_error(tmp_path):
    fill(tmp_path, "a.md")
    with pytest.raises(IngestError, match="does not exist"):
        find_files(tmp_path / "none", ["**"], [])
    with pytest.raises(IngestError, match="is not a folder"):
        find_files(tmp_path / "a.md", ["**"], [])
    with pytest.raises(IngestError, match="holds no files"):
        find_files(tmp_path, ["*.pdf"], [])
