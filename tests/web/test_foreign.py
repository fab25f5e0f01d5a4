"""Files that were never uploaded: a call that names one, or an address, does not get as far as a handler."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.web.foreign import is_uploaded, named_files

PATHS = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "meta", "url"]), inner),
    max_leaves=10,
)


@given(VALUES, PATHS, st.integers(0, 40))
def test_a_named_file_is_found_however_deep_it_lies(value, path, depth):
    assert list(named_files(value)) == []
    for level in range(depth):
        value = [value, {"x": {"path": path}}] if level == 0 else [value]
    assert bool(list(named_files(value))) == (depth > 0)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "uploads/../secret.txt",
        "http://127.0.0.1/x",
        "https://example.com/x",
        "uploads/link",
        "uploads-too/x",
        "\0",
        None,
        5,
        ["uploads/good.md"],
    ],
)
def test_only_what_lies_in_the_upload_folder_is_an_upload(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for folder in ("uploads", "uploads-too"):
        (tmp_path / folder).mkdir()
    (tmp_path / "uploads/good.md").touch()
    (tmp_path / "secret.txt").touch()
    (tmp_path / "uploads/link").symlink_to(tmp_path / "secret.txt")
    assert is_uploaded(str(tmp_path / "uploads/good.md"), Path("uploads"))
    assert not is_uploaded(path, Path("uploads"))


def test_depth_without_end_counts_as_a_foreign_file():
    value: list = []
    for _ in range(10_000):
        value = [value]
    assert list(named_files(value)) == [None]
