"""Artefacts: what makes one current, what a kill leaves, and how damage is met."""

import json
import subprocess
import sys
import textwrap

import pytest

from factory import artifacts, store
from factory.errors import ArtifactError

REQUEST = {"kind": "dataset", "code_version": 1, "config": {"rank": 4}, "inputs": {"chunks": "abc"}}
POINTS = (
    "before the first file",
    "between the files",
    "inside a file",
    "before the record",
    "before the name",
)

# Makes the artefact that `make` makes below and dies at the point named by the second argument.
KILLED = """
    import json, os, sys
    from pathlib import Path
    from factory import artifacts, store
    point, request = sys.argv[2], json.loads(sys.argv[3])
    def die(at):
        if point == at:
            os._exit(9)
    def make(work):
        die("before the first file")
        store.write_text(work / "a.txt", "first")
        die("between the files")
        with store.open_replacing(work / "b.txt") as file:
            file.write("sec")
            file.flush()
            die("inside a file")
            file.write("ond")
        return {"rows": 2}
    write_json, replace_folder = store.write_json, store.replace_folder
    def write(path, value):
        if path.name == "record.json":
            die("before the record")
        write_json(path, value)
    def replace(work, final):
        die("before the name")
        replace_folder(work, final)
    store.write_json, store.replace_folder = write, replace
    artifacts.build(Path(sys.argv[1]), make=make, **request)
"""


def make(work):
    store.write_text(work / "a.txt", "first")
    store.write_text(work / "b.txt", "second")
    return {"rows": 2}


def build(folder, make=make, **changes):
    return artifacts.build(folder, make=make, **(REQUEST | changes))


def key(**changes):
    return artifacts.key_of(**{**REQUEST, **changes})


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "record.json"}


def test_a_finished_folder_holds_the_files_and_how_they_were_made(tmp_path):
    record = build(tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == {"a.txt": "first", "b.txt": "second"}
    assert artifacts.read_record(tmp_path / "dataset") == record
    assert (record.counts, record.config, record.inputs) == ({"rows": 2}, {"rank": 4}, {"chunks": "abc"})
    assert record.seconds >= 0
    assert record.peak_memory_bytes > 1 << 20
    assert record.packages["numpy"]
    assert not list((tmp_path / ".partial").iterdir())


def test_the_folder_has_its_name_only_when_it_is_whole(tmp_path):
    seen = []
    build(tmp_path / "dataset", make=lambda work: seen.append((tmp_path / "dataset").exists()) or make(work))
    assert seen == [False]


def test_the_same_request_twice_is_the_same_artefact(tmp_path):
    one, two = build(tmp_path / "x" / "dataset"), build(tmp_path / "y" / "dataset")
    assert (one.key, one.content) == (two.key, two.content)


@pytest.mark.parametrize(
    "change", [{"config": {"rank": 5}}, {"inputs": {"chunks": "abd"}}, {"code_version": 2}, {"kind": "x"}]
)
def test_inputs_config_and_code_version_decide_what_is_current(tmp_path, change):
    build(tmp_path / "dataset")
    assert artifacts.is_current(tmp_path / "dataset", key())
    assert not artifacts.is_current(tmp_path / "dataset", key(**change))


def test_where_the_folder_lies_and_who_made_it_do_not_decide(tmp_path, monkeypatch):
    build(tmp_path / "dataset")
    (tmp_path / "dataset").rename(tmp_path / "elsewhere")
    monkeypatch.setattr(artifacts, "installed_versions", lambda: {"numpy": "0"})
    assert artifacts.is_current(tmp_path / "elsewhere", key())


def test_a_missing_folder_is_not_current_and_reading_it_says_what_to_do(tmp_path):
    assert not artifacts.is_current(tmp_path / "dataset", key())
    with pytest.raises(ArtifactError, match=r"holds no record\.json: run the stage that makes it first"):
        artifacts.read_record(tmp_path / "dataset")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"kind": 1}', "\x00\x01", "null"])
def test_a_damaged_record_is_named_and_the_artefact_built_anew(tmp_path, caplog, damage):
    folder = tmp_path / "dataset"
    build(folder)
    (folder / "record.json").write_text(damage)
    with pytest.raises(ArtifactError, match=r"record\.json is damaged: running the recipe again"):
        artifacts.read_record(folder)
    assert not artifacts.is_current(folder, key())
    assert "is damaged" in caplog.text
    build(folder)
    assert artifacts.is_current(folder, key())


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_run_again_gives_what_an_undisturbed_run_gives(tmp_path, point):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "dataset"), point, json.dumps(REQUEST)]
    )
    assert done.returncode == 9
    assert not (tmp_path / "dataset").exists()
    record = build(tmp_path / "dataset")
    assert record.content == build(tmp_path / "undisturbed" / "dataset").content
    assert contents(tmp_path / "dataset") == {"a.txt": "first", "b.txt": "second"}


def test_a_folder_that_lacked_only_its_name_is_not_made_again(tmp_path):
    arguments = [str(tmp_path / "dataset"), "before the name", json.dumps(REQUEST)]
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments])
    record = build(tmp_path / "dataset", make=lambda work: pytest.fail("made again"))
    assert record.counts == {"rows": 2}


def test_a_whole_looking_partial_folder_with_other_bytes_is_made_again(tmp_path):
    arguments = [str(tmp_path / "dataset"), "before the name", json.dumps(REQUEST)]
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), *arguments])
    (tmp_path / ".partial" / "dataset" / "a.txt").write_text("bent")
    build(tmp_path / "dataset")
    assert contents(tmp_path / "dataset") == {"a.txt": "first", "b.txt": "second"}


def fail_half_way(work):
    store.write_text(work / "rows-done.txt", "7")
    raise RuntimeError("stop")


def test_partial_work_of_the_same_request_is_handed_on(tmp_path):
    with pytest.raises(RuntimeError):
        build(tmp_path / "dataset", make=fail_half_way)

    def go_on(work):
        (work / "rows-done.txt").unlink()
        return make(work)

    assert build(tmp_path / "dataset", make=go_on).content == build(tmp_path / "other" / "dataset").content


@pytest.mark.parametrize("marker", ["as it was", "", "[1]", "{"])
def test_partial_work_of_another_or_unknown_request_is_dropped(tmp_path, marker):
    with pytest.raises(RuntimeError):
        build(tmp_path / "dataset", make=fail_half_way)
    if marker != "as it was":
        (tmp_path / ".partial" / "dataset.json").write_text(marker)
    build(tmp_path / "dataset", config={"rank": 5})
    assert contents(tmp_path / "dataset") == {"a.txt": "first", "b.txt": "second"}


def test_a_failure_keeps_the_finished_folder_of_before(tmp_path):
    build(tmp_path / "dataset")
    with pytest.raises(RuntimeError):
        build(tmp_path / "dataset", make=fail_half_way, config={"rank": 5})
    assert artifacts.is_current(tmp_path / "dataset", key())
