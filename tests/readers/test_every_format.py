"""What holds for every format: text survives, spans are exact, nothing is fetched, nothing breaks the run."""

import json
import os
import random
import socket
import sysconfig
from pathlib import Path

import pytest

from factory.readers.registry import EXTENSIONS, READERS, load_reader
from factory.rows import Document, Quarantined, read_rows
from factory.stages.ingest import IngestConfig, ingest
from tests.outside import Outside


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def run(source, work, workers=2, **config):
    return ingest(IngestConfig(source=source, **config), work=work, previous=None, workers=workers)


def test_every_entry_of_the_tables_resolves():
    assert set(EXTENSIONS.values()) <= set(READERS)
    assert all(callable(load_reader(name)) for name in READERS)


def test_the_samples_cover_every_format(samples, read):
    assert {row.format for name, data in samples.items() for row in read(name, data).documents} == {
        *READERS
    } - {"zip"}


def test_words_numbers_and_spans_survive_without_any_connection(samples, read, monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, data in samples.items():
        reading = read(name, data)
        assert not reading.quarantined, name
        document = reading.documents[0]
        assert {"Zephyrine", "42"} <= set(document.text.replace(",", " ").replace('"', " ").split()), name
        for item in document.elements:
            assert document.text[item.start : item.end] == item.text


@pytest.mark.timeout(1800)
def test_200_damaged_files_of_each_format_never_break_the_run(samples, tmp_path, monkeypatch):
    mutated = {
        f"{number}/{name}": mutate(data, random.Random(f"{name} {number}"))
        for name, data in samples.items()
        for number in range(200)
    }
    source = write(tmp_path / "source", mutated)
    site_packages = list_files(Path(sysconfig.get_paths()["purelib"]))
    outside = Outside(tmp_path / "outside", monkeypatch)
    before = list_files(tmp_path)
    run(source, tmp_path / "work", timeout_s=120)  # of a machine that may be busy
    assert outside.written() == []
    assert list_files(tmp_path) - before == {
        f"work/{name}" for name in ("documents.jsonl", "quarantine.jsonl", "sources.json")
    }
    assert {name: (source / name).read_bytes() for name in list_files(source)} == mutated
    assert list_files(Path(sysconfig.get_paths()["purelib"])) == site_packages
    check_answers(mutated, tmp_path / "work")


def check_answers(files, work):
    """Every file has rows or a reason in one line that says what to do, and no span is off."""
    documents = list(read_rows(work / "documents.jsonl", Document))
    refused = list(read_rows(work / "quarantine.jsonl", Quarantined))
    assert {row.path.split("!/")[0] for row in [*documents, *refused]} == set(files)
    assert not [row for row in refused if row.reason in ("crashed", "timeout", "out_of_memory")]
    assert not [
        row for row in refused if "\n" in row.detail or ": " not in row.detail or len(row.detail) > 400
    ]
    for row in documents:
        assert all(row.text[item.start : item.end] == item.text for item in row.elements)


def mutate(data, chance):
    """Return data with bytes flipped, cut out, repeated or put in."""
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 3, 20])):
        at = chance.randrange(len(damaged) or 1)
        length = chance.choice([1, 4, 60])
        match chance.randrange(4):
            case 0:
                damaged[at : at + length] = chance.randbytes(length)
            case 1:
                del damaged[at : at + length]
            case 2:
                damaged[at:at] = damaged[at : at + length] * 3
            case _:
                damaged[at:at] = chance.choice(
                    [b"<", b"]]>", b"\0", b"%s", b"\xff\xfe", b"&#x0;", b"-1", b"9" * 30]
                )
    return bytes(damaged)


def list_files(folder):
    return {
        os.path.relpath(os.path.join(root, name), folder)
        for root, folders, names in os.walk(folder)
        for name in names
        if not name.endswith(".pyc")
    }


def test_workers_load_neither_torch_nor_transformers(tmp_path, samples, monkeypatch):
    (tmp_path / "telling_worker.py").write_text(
        "import json, sys\n"
        "from factory.readers import worker\n"
        "real = worker._read\n"
        "def read(*arguments):\n"
        "    answer = real(*arguments)\n"
        "    loaded = sorted(name for name in ('torch', 'transformers', 'numba') if sys.modules.get(name))\n"
        "    return answer | {'documents': [{'path': 'x', 'loaded': loaded}]}\n"
        "worker._read = read\n"
        "worker.main(int(sys.argv[1]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from factory.readers.contract import Limits
    from factory.readers.pool import Job, PoolSettings, parse_files

    source = write(tmp_path / "source", samples)
    jobs = [Job(name, source / name) for name in samples]
    answers = list(parse_files(jobs, PoolSettings(Limits(), 60, 4 << 30, 1, "telling_worker")))
    assert len(answers) == len(samples)
    assert json.dumps([row["loaded"] for answer in answers for row in answer.documents]) == json.dumps(
        [[]] * len(samples)
    )
