import json
import os
import signal
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from factory.errors import IngestError
from factory.progress import Progress
from factory.rows import Document, Quarantined, read_rows
from factory.stages.ingest import IngestConfig, ingest

FILES = {
    "a.md": b"# Leave\n\nEverybody has 27 days.\n",
    "b/notes.txt": b"NOTES\n\nThe gate opens at 07:30.\n",
    "b/stock.csv": b"part,hall\nWren,Elm\n",
    "c.html": b"<h1>Rates</h1><p>Meals: 38 pounds.</p>",
    "d.json": b'{"owner": "Ada"}',
    "e.txt": b"",
    "f.py": b"x = 1\n",
}


def fill(folder, files=FILES):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A source folder, the corpus made from it by one worker, and the counts."""
    folder = tmp_path_factory.mktemp("finished")
    source = fill(folder / "source")
    counts = ingest(IngestConfig(source=source), work=folder / "corpus", previous=None, workers=1)
    return source, folder / "corpus", counts


def test_rows_are_sorted_valid_and_counted(finished):
    _, corpus, counts = finished
    documents = list(read_rows(corpus / "documents.jsonl", Document))
    (refused,) = read_rows(corpus / "quarantine.jsonl", Quarantined)
    assert [row.path for row in documents] == [
        "a.md",
        "b/notes.txt",
        "b/stock.csv",
        "c.html",
        "d.json",
        "f.py",
    ]
    assert (refused.path, refused.reason) == ("e.txt", "empty")
    assert counts == {
        "documents": 6,
        "quarantined": 1,
        "elements": sum(len(row.elements) for row in documents),
        "characters": sum(len(row.text) for row in documents),
        "reused": 0,
    }
    assert sorted(path.name for path in corpus.iterdir()) == [
        "documents.jsonl",
        "quarantine.jsonl",
        "sources.json",
    ]


def test_workers_and_interruptions_change_no_byte(finished, tmp_path, monkeypatch):
    source, corpus, _ = finished
    config = IngestConfig(source=source)

    def stop_after_three(bar, done, total):
        assert total == len(FILES)
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        ingest(config, work=tmp_path, previous=None, workers=2)
    partial = tmp_path / "partial.jsonl"
    seals = partial.read_text().count('"source":')
    with partial.open("ab") as file:
        file.write(b'{"path": "torn')
    seen = []
    monkeypatch.setattr(Progress, "update", lambda bar, done, total: seen.append(done))
    ingest(config, work=tmp_path, previous=None, workers=2)
    assert content(tmp_path) == content(corpus)
    assert len(seen) == len(FILES) - seals < len(FILES)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    many = fill(tmp_path / "many", {f"{n}/{name}": data for n in range(60) for name, data in FILES.items()})
    script = (
        "import sys; from pathlib import Path; from factory.stages.ingest import *\n"
        "ingest(IngestConfig(source=Path(sys.argv[1])), work=Path(sys.argv[2]), previous=None, workers=2)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, "-c", script, many, tmp_path / "killed"], env=environment)
    partial = tmp_path / "killed/partial.jsonl"
    while not partial.exists() or partial.stat().st_size < 20_000:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    config = IngestConfig(source=many)
    ingest(config, work=tmp_path / "killed", previous=None, workers=1)
    ingest(config, work=tmp_path / "whole", previous=None, workers=2)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_only_changed_files_are_read_again(finished, tmp_path, monkeypatch):
    _, corpus, _ = finished
    changed = {name: data for name, data in FILES.items() if name != "c.html"} | {
        "a.md": b"# Leave\n\nNow 28 days.\n"
    }
    source = fill(tmp_path / "source", changed)
    read_again = []
    monkeypatch.setattr(Progress, "update", lambda bar, done, total: read_again.append(done))
    counts = ingest(IngestConfig(source=source), work=tmp_path / "new", previous=corpus, workers=1)
    assert (len(read_again), counts["reused"], counts["documents"]) == (1, 5, 5)
    texts = {row.path: row.text for row in read_rows(tmp_path / "new/documents.jsonl", Document)}
    assert "28 days" in texts["a.md"]
    assert "c.html" not in texts


def test_nothing_is_parsed_when_nothing_changed(finished, tmp_path, monkeypatch):
    source, corpus, _ = finished
    monkeypatch.setattr("factory.readers.pool._Worker", None)
    counts = ingest(IngestConfig(source=source), work=tmp_path, previous=corpus, workers=1)
    assert counts["reused"] == len(FILES)
    assert content(tmp_path) == content(corpus)


def test_links_large_and_odd_files_have_reasons(tmp_path):
    source = fill(
        tmp_path / "source", {"ok.md": b"words", "big.txt": b"x" * ((1 << 20) + 1), "a\nb.md": b"lines"}
    )
    (source / "link.md").symlink_to(source / "ok.md")
    with open(os.fsencode(source) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"coffee")
    ingest(IngestConfig(source=source, max_file_mib=1), work=tmp_path / "work", previous=None, workers=1)
    documents = {row.path: row.title for row in read_rows(tmp_path / "work/documents.jsonl", Document)}
    refused = {row.path: row.reason for row in read_rows(tmp_path / "work/quarantine.jsonl", Quarantined)}
    assert documents == {"a\nb.md": "A b", "caf\\xe9.txt": "Caf\\xe9", "ok.md": "Ok"}
    assert refused == {"big.txt": "too_large", "link.md": "link"}


def test_a_folder_with_nothing_readable_is_an_error(tmp_path):
    source = fill(tmp_path / "source", {"a.txt": b"x" * ((1 << 20) + 1)})
    with pytest.raises(IngestError, match=r"None of the 1 files .* \(1 too_large\)"):
        ingest(IngestConfig(source=source, max_file_mib=1), work=tmp_path / "work", previous=None, workers=1)
    assert json.loads((tmp_path / "work/quarantine.jsonl").read_text())["path"] == "a.txt"


def test_importing_the_stage_is_quick():
    heavy = ("unstructured", "torch", "lxml", "docx")
    script = f"import sys, factory.stages.ingest; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError):
        IngestConfig(source="x", sauce="y")
