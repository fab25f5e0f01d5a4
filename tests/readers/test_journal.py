import json

import pytest

from factory.readers.journal import Journal


def row(path, text="words"):
    return {"path": path, "text": text, "elements": [1, 2]}


def lines(folder, name="documents.jsonl"):
    return [json.loads(line)["path"] for line in (folder / name).read_text().splitlines()]


@pytest.fixture
def finished(tmp_path):
    with Journal(tmp_path / "old", None, "reader 1") as journal:
        journal.add(
            "b.zip",
            "2",
            [row("b.zip!/y"), row("b.zip!/x")],
            [{"path": "b.zip!/z", "reason": "empty", "detail": ""}],
        )
        journal.add("a.md", "1", [row("a.md")], [])
        journal.add("c.md", "", [], [{"path": "c.md", "reason": "timeout", "detail": ""}])
        journal.refuse("d", "link", "")
        journal.finish()
    return tmp_path / "old"


def test_rows_are_sorted_by_path(finished):
    assert lines(finished) == ["a.md", "b.zip!/x", "b.zip!/y"]
    assert lines(finished, "quarantine.jsonl") == ["b.zip!/z", "c.md", "d"]


def test_containers_are_taken_over_whole(finished, tmp_path):
    with Journal(tmp_path / "new", finished, "reader 1") as journal:
        assert journal.reuse("b.zip", "2")
        counts, reasons = journal.finish()
    assert lines(tmp_path / "new") == ["b.zip!/x", "b.zip!/y"]
    assert counts == {"documents": 2, "quarantined": 1, "elements": 4, "characters": 10, "reused": 1}
    assert reasons == {"empty": 1}


def test_other_bytes_another_reader_and_passing_failures_are_not_taken_over(finished, tmp_path):
    with Journal(tmp_path / "new", finished, "reader 1") as journal:
        assert not journal.reuse("a.md", "9")
        assert not journal.knows("c.md")
        assert not journal.knows("d")
    with Journal(tmp_path / "newer", finished, "reader 2") as journal:
        assert not journal.knows("a.md")


def test_a_partial_file_is_taken_over_up_to_its_last_seal(tmp_path):
    with Journal(tmp_path, None, "reader 1") as journal:
        journal.add("a.md", "1", [row("a.md")], [])
        journal.add("b.md", "2", [row("b.md")], [])
    partial = tmp_path / "partial.jsonl"
    partial.write_bytes(partial.read_bytes()[:-5])
    with Journal(tmp_path, None, "reader 1") as journal:
        assert journal.reuse("a.md", "1")
        assert not journal.knows("b.md")
        journal.add("b.md", "3", [row("b.md", "new")], [])
        counts, _ = journal.finish()
    assert (counts["documents"], counts["characters"], counts["reused"]) == (2, 8, 0)
    assert not partial.exists()


def test_a_partial_file_of_another_reader_is_dropped(tmp_path):
    with Journal(tmp_path, None, "reader 1") as journal:
        journal.add("a.md", "1", [row("a.md")], [])
    with Journal(tmp_path, None, "reader 2") as journal:
        assert not journal.knows("a.md")
        journal.finish()
    assert lines(tmp_path) == []


def test_damaged_bytes_in_a_partial_file_end_it_there(tmp_path):
    with Journal(tmp_path, None, "reader 1") as journal:
        journal.add("a.md", "1", [row("a.md")], [])
    with (tmp_path / "partial.jsonl").open("ab") as file:
        file.write(b"\xff\xfe{]\n" + b'{"source": "b.md", "sha256": "2"}\n')
    with Journal(tmp_path, None, "reader 1") as journal:
        assert journal.knows("a.md")
        assert not journal.knows("b.md")
