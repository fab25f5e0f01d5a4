"""The training benchmark goes on where it was interrupted, and says when there is no peer."""

import json
import subprocess
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def train(monkeypatch, tmp_path):
    """The benchmark, in a folder of its own."""
    monkeypatch.syspath_prepend(str(BENCH))  # where it finds its parts when it is started
    from bench import train

    monkeypatch.setattr(train, "WORK", tmp_path)
    monkeypatch.setattr(train, "PEERS", tmp_path / "peers")
    return train


def test_what_was_measured_is_not_measured_again_unless_all_is_written(train, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(train, "ask", lambda *command: asked.append(command) or {"losses": [len(asked)]})
    job, other = train.Job("ours", "chat-32"), train.Job("ours", "chat-32", repeat=2)
    assert train.Runner(None, {}, resume=False)(job)["losses"] == [1]
    run = train.Runner(None, {}, resume=True)
    assert [run(one)["losses"] for one in (job, other)] == [[1], [2]]
    assert train.Runner(None, {}, resume=False)(job)["losses"] == [3]
    run.forget()
    assert train.Runner(None, {}, resume=True)(job)["losses"] == [4]
    (line,) = (tmp_path / "training.jsonl").read_text().splitlines()
    assert json.loads(line) == {"job": job.name, "losses": [4]}


def test_a_peer_that_cannot_be_installed_is_told(train, monkeypatch, capsys):
    def fail(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="looking\nno such version of trl")

    monkeypatch.setattr(train.venv, "create", lambda *given, **options: None)
    monkeypatch.setattr(train.subprocess, "run", fail)
    assert train.open_peer() is None
    said = capsys.readouterr().err
    assert "TRL cannot be installed, only the project is measured: no such version of trl" in said
