import pytest

from factory.weights.unfinished import sweep, unfinished


def test_a_file_appears_when_it_is_whole(tmp_path):
    target = tmp_path / "a.bin"
    with unfinished(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()

    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_keeps_the_old_file_and_leaves_no_part(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail():
        with unfinished(target) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), unfinished(tmp_path / "a.bin"):
        pass


def test_parts_of_a_killed_run_are_swept(tmp_path):
    (tmp_path / "a.gguf.unfinished").write_bytes(b"half")
    (tmp_path / "b.gguf").write_bytes(b"whole")
    sweep(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["b.gguf"]
