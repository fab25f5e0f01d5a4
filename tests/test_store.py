"""Atomic files and folders, killed in the middle and written by two."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from factory import store
from factory.errors import ArtifactError

DIED = 9


def run_and_die(script, *arguments):
    """Run a script in a new process that ends itself with `os._exit(DIED)`."""
    code = "import os, sys\nfrom pathlib import Path\nfrom factory import store\n" + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == DIED, done.stderr


def test_hashes_are_sha256():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert store.hash_bytes(b"") == empty
    assert store.hash_json({"b": 1, "a": "é"}) == store.hash_json({"a": "é", "b": 1})
    assert store.hash_json({"a": 1}) != store.hash_json({"a": "1"})


def test_a_file_larger_than_one_block_is_hashed_whole(tmp_path):
    data = os.urandom(store.HASH_BLOCK_BYTES + 17)
    (tmp_path / "big").write_bytes(data)
    assert store.hash_file(tmp_path / "big") == store.hash_bytes(data)


def test_a_folder_hash_sees_names_and_bytes_but_not_times_or_ignored_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("one")
    first = store.hash_folder(tmp_path)
    os.utime(tmp_path / "sub" / "a.txt", (1, 1))
    (tmp_path / "skip.json").write_text("x")
    assert store.hash_folder(tmp_path, ignore=["skip.json"]) == first
    (tmp_path / "sub" / "a.txt").rename(tmp_path / "sub" / "b.txt")
    renamed = store.hash_folder(tmp_path, ignore=["skip.json"])
    (tmp_path / "sub" / "b.txt").write_text("two")
    assert len({first, renamed, store.hash_folder(tmp_path, ignore=["skip.json"])}) == 3


def test_links_are_not_followed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "in" / "file").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    assert store.walk_files(tmp_path / "in") == []


def test_text_and_json_come_back_as_written(tmp_path):
    store.write_text(tmp_path / "a.txt", "zwölf\n")
    store.write_json(tmp_path / "a.json", {"b": [1, "é"]})
    assert (tmp_path / "a.txt").read_bytes() == "zwölf\n".encode()
    assert store.read_json(tmp_path / "a.json") == {"b": [1, "é"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        store.write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_a_trace_that_sweep_removes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    run_and_die(
        """
        with store.open_replacing(Path(sys.argv[1])) as file:
            file.write("new" * 100_000)
            file.flush()
            os._exit(9)
        """,
        path,
    )
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    store.sweep(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json' is damaged"):
        store.read_json(tmp_path / "a.json")


def fill(folder, text):
    folder.mkdir()
    (folder / "rows.txt").write_text(text)
    return folder


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    fill(tmp_path / "final", "old")
    store.replace_folder(fill(tmp_path / "work", "new"), tmp_path / "final")
    assert (tmp_path / "final" / "rows.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize(("renames", "survives"), [(0, "old"), (1, None), (2, "new")])
def test_a_kill_between_the_renames_never_leaves_a_mixture(tmp_path, renames, survives):
    fill(tmp_path / "final", "old")
    fill(tmp_path / "work", "new")
    run_and_die(
        """
        left, rename = int(sys.argv[3]), Path.rename
        def counted(self, target):
            global left
            if left == 0:
                os._exit(9)
            left -= 1
            return rename(self, target)
        Path.rename = counted
        store.shutil.rmtree = lambda *args, **more: os._exit(9) if left == 0 else None
        store.replace_folder(Path(sys.argv[1]), Path(sys.argv[2]))
        """,
        tmp_path / "work",
        tmp_path / "final",
        renames,
    )
    final = tmp_path / "final" / "rows.txt"
    assert (final.read_text() if final.exists() else None) == survives
    if survives != "new":  # the next run replaces it all the same
        store.replace_folder(tmp_path / "work", tmp_path / "final")
    assert final.read_text() == "new"
    assert [path.name for path in (tmp_path / "final").iterdir()] == ["rows.txt"]


def test_a_second_process_cannot_hold_a_folder_and_a_killed_one_lets_go(tmp_path):
    code = "from pathlib import Path\nfrom factory import store\nimport sys\nwith store.locked(Path(sys.argv[1])): pass"
    with store.locked(tmp_path):
        second = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "BlockingIOError" in second.stderr
    run_and_die("with store.locked(Path(sys.argv[1])): os._exit(9)", tmp_path)
    with store.locked(tmp_path):
        pass


def test_the_cache_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTER_FACTORY_CACHE", str(tmp_path / "mine"))
    assert store.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("ADAPTER_FACTORY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_folder() == tmp_path / "adapter-factory"


def test_the_private_key_is_made_once_and_for_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTER_FACTORY_CACHE", str(tmp_path / "mine"))
    key = store.private_key()
    assert len(key) == 32
    assert store.private_key() == key
    (file,) = (tmp_path / "mine").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_json_on_disk_is_sorted_so_that_equal_values_are_equal_bytes(tmp_path):
    store.write_json(tmp_path / "a", {"b": 1, "a": 2})
    store.write_json(tmp_path / "b", {"a": 2, "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert list(json.loads((tmp_path / "a").read_text())) == ["a", "b"]


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    read, hash_file = [], store.hash_file
    monkeypatch.setattr(store, "hash_file", lambda path: read.append(path) or hash_file(path))
    (tmp_path / "model.gguf").write_bytes(b"one")
    first = [store.hash_once(tmp_path / "model.gguf") for _ in range(3)]
    assert first == [store.hash_bytes(b"one")] * 3
    (tmp_path / "model.gguf").write_bytes(b"other")
    assert store.hash_once(tmp_path / "model.gguf") == store.hash_bytes(b"other")
    assert len(read) == 2
