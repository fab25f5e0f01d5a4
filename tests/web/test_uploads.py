"""Uploaded documents: whatever they are called, their copies have harmless names and nothing but files is taken."""

import os
import re
import unicodedata
from pathlib import PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import UsageError
from factory.web import uploads
from factory.web.uploads import accept_documents, look_at, safe_name

HARD = st.sampled_from(
    [*"./\\: \t\n\0~$*?<>|\"'", "\u202e", "\u200d", "é", "e\u0301", "😀", "\udcff", "con", "LPT1", ".md"]
)
NAMES = st.lists(st.text(max_size=6) | HARD, max_size=60).map("".join)


def assert_harmless(name: str) -> None:
    assert 1 <= len(name) <= 120
    assert len(name.encode()) <= 240
    assert not re.search(r'[/\\<>:"|?*]', name)
    assert not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs"} for letter in name)
    assert name == name.strip(" .") or name[-1] not in " ."
    assert not name.startswith((".", " "))
    assert not PureWindowsPath(name).is_reserved()


@given(NAMES)
def test_every_name_becomes_harmless_and_stays_as_it_then_is(name):
    safe = safe_name(name)
    assert_harmless(safe)
    assert safe_name(safe) == safe


@given(st.lists(NAMES | st.sampled_from(["a.md", "A.MD", "x" * 130 + ".md"]), max_size=30))
def test_names_that_became_the_same_are_told_apart_without_capitals(names):
    taken: set[str] = set()
    chosen = [uploads._unused(safe_name(name), taken) for name in names]
    assert len({name.casefold() for name in chosen}) == len(names)
    for name in chosen:
        assert_harmless(name)


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\Plan 2026.docx", "Plan 2026.docx"),
        (".env", "env"),
        ("..", "document"),
        ("con.txt", "_con.txt"),
        ("COM1 .tar.gz", "_COM1 .tar.gz"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("x" * 300 + ".markdown", "x" * 111 + ".markdown"),
        ("Preisliste für Zürich.xlsx", "Preisliste für Zürich.xlsx"),
        ("ü" * 200, "ü" * 120),
        ("名" * 130 + ".pdf", "名" * 78 + ".pdf"),
    ],
)
def test_names_keep_what_is_harmless(given_name, safe):
    assert safe_name(given_name) == safe


def test_documents_are_copied_under_names_of_their_own(tmp_path):
    for folder, text in (("a", "one"), ("b", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plan.md").write_text(text)
    copies = accept_documents([tmp_path / "a/plan.md", tmp_path / "b/plan.md"], tmp_path / "docs")
    assert [(copy.name, copy.read_text()) for copy in copies] == [("plan.md", "one"), ("plan-2.md", "two")]


def make_link(path):
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_link, "link"),
        (lambda path: path.mkdir(), "no file"),
        (os.mkfifo, "no file"),
        (lambda path: None, "No such"),
    ],
)
def test_links_folders_pipes_and_missing_files_are_refused_by_name(tmp_path, make, message):
    make(tmp_path / "odd.md")
    with pytest.raises(UsageError, match=rf"'odd\.md' cannot be taken: .*{message}"):
        accept_documents([tmp_path / "odd.md"], tmp_path / "docs")


def test_too_many_and_too_large_files_are_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("12345")
    with pytest.raises(UsageError, match=r"501 files were given, 'a\.md' is beyond the limit of 500"):
        accept_documents([tmp_path / "a.md"] * 501, tmp_path / "one")
    monkeypatch.setattr(uploads, "MAX_TOTAL_BYTES", 9)
    with pytest.raises(UsageError, match=r"With 'a\.md' the files are larger"):
        accept_documents([tmp_path / "a.md"] * 2, tmp_path / "two")
    with pytest.raises(UsageError, match="no documents"):
        accept_documents([], tmp_path / "three")


def test_a_look_tells_what_a_run_would_refuse(tmp_path):
    (tmp_path / "good.md").write_text("# Plan")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "tool.pdf").write_bytes(b"\x7fELF" + bytes(20))
    make_link(tmp_path / "link.md")
    readable, refused = look_at([tmp_path / name for name in ("good.md", "empty.txt", "tool.pdf", "link.md")])
    assert [(file.name, file.size_bytes) for file in readable] == [("good.md", 6)]
    assert [(file.path, file.reason) for file in refused] == [
        ("empty.txt", "empty"),
        ("tool.pdf", "executable"),
        ("link.md", "link"),
    ]
