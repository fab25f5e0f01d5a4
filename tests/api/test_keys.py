import os

import pytest

from factory.api.keys import is_key, key_file, read_key
from factory.errors import UsageError
from factory.store import CACHE_VARIABLE


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    old = os.umask(0)
    try:
        key = read_key()
    finally:
        os.umask(old)

    assert len(key) >= 43
    assert read_key() == key
    assert key_file().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key_file().parent.iterdir()] == [key_file().name]


def test_two_keys_differ(tmp_path):
    assert read_key(tmp_path / "one") != read_key(tmp_path / "two")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    read_key(tmp_path / "api.key")
    (tmp_path / "api.key").chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        read_key(tmp_path / "api.key")


@pytest.mark.parametrize("text", ["", "short", "\n" * 50])
def test_a_file_without_a_key_is_refused(tmp_path, text):
    (tmp_path / "api.key").write_text(text)
    (tmp_path / "api.key").chmod(0o600)
    with pytest.raises(UsageError, match="holds no key"):
        read_key(tmp_path / "api.key")


def test_only_the_very_key_is_the_key():
    key = "a" * 43
    assert is_key(key, key)
    for other in ("", "a", "a" * 42, "a" * 44, "A" * 43, "ä" * 43, key + "\n", "\udcff" * 43):
        assert not is_key(other, key)
