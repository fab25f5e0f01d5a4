"""Loss by document: the mean over its rows' tokens, the worst first."""

import json
import logging
from collections import Counter
from dataclasses import replace

import pytest
import torch

from factory.lora import distributed, documents
from factory.lora.batches import epoch_batches, num_labels, share_of
from factory.lora.checkpoint import trained_state
from factory.lora.documents import Tally, document_losses
from factory.lora.engine import FusedEngine, PlainEngine
from factory.lora.loop import Loop
from tests.lora.test_loop import SETTINGS

NAMES = ("a.md", "b.md", "", "c.md", "d.md")


@pytest.fixture
def engine(new_model):
    return FusedEngine(new_model(trained=True), 0, torch.float32)


def _loss(engine, rows) -> float:
    with torch.no_grad():
        return sum(float(engine.token_losses([row], None).sum()) for row in rows) / sum(map(num_labels, rows))


def test_each_document_gets_the_mean_of_its_tokens_and_the_worst_comes_first(engine, encoded) -> None:
    names = ("a.md", "b.md", "c.md")
    rows = [replace(row, document=names[number % 3]) for number, row in enumerate(encoded)]
    found = document_losses(engine, rows, micro_batch=3)
    assert {row["document"] for row in found} == set(names)
    assert [row["loss"] for row in found] == sorted((row["loss"] for row in found), reverse=True)
    for row in found:
        own = [one for one in rows if one.document == row["document"]]
        assert row["rows"] == len(own)
        assert row["loss"] == pytest.approx(_loss(engine, own), rel=1e-4)


def test_rows_without_a_document_are_left_out(engine, encoded) -> None:
    rows = [replace(encoded[0], document=""), replace(encoded[1], document="a.md")]
    assert [row["document"] for row in document_losses(engine, rows, 8)] == ["a.md"]
    assert document_losses(engine, rows[:1], 8) == []


def test_of_a_long_document_rows_are_taken_evenly(engine, encoded, monkeypatch) -> None:
    monkeypatch.setattr(documents, "ROWS_EACH", 4)
    rows = [replace(row, document="a.md") for row in encoded[:10]]
    (found,) = document_losses(engine, rows, 8)
    assert found["rows"] == 4
    assert found["loss"] == pytest.approx(_loss(engine, rows[::3]), rel=1e-4)


def test_the_adapter_counts_as_it_is_now(engine, encoded) -> None:
    rows = [replace(row, document="a.md") for row in encoded[:4]]
    before = document_losses(engine, rows, 8)[0]["loss"]
    with torch.no_grad():
        for group in engine._model._above[0].groups:
            for value in group.parameters:
                value.mul_(3.0)
    assert document_losses(engine, rows, 8)[0]["loss"] != before


@pytest.fixture
def named(encoded):
    """Rows of four documents and of none."""
    return [replace(row, document=NAMES[number % 5]) for number, row in enumerate(encoded)]


def _told(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / documents.FILE).read_text().splitlines()]


@pytest.mark.parametrize("kind", [FusedEngine, PlainEngine])
def test_while_training_the_loss_of_an_epochs_rows_is_that_of_its_steps(
    new_model, named, tmp_path, caplog, kind
) -> None:
    caplog.set_level(logging.INFO)
    model, told, steps = new_model(), [], []

    def report(row):
        steps.append(row)
        if "recall" in row:  # comes before the losses of its own epoch are told
            told.append(_told(tmp_path) if told else None)

    engine = kind(model, 0, torch.float32, *(("cpu", 2) if kind is PlainEngine else ()))
    settings = replace(SETTINGS, micro_batch=2, recall_epochs=frozenset({1, 2}))
    tally = Tally(named, tmp_path)
    Loop(model, 0, named, settings, tmp_path / "c", lambda: 0.0, report, engine=engine, tally=tally).run()
    last = epoch_batches(named, 2, settings.seed, settings.batch_size)
    losses = [row["loss"] for row in steps if "loss" in row][-len(last) :]
    found = {row["document"]: row for row in _told(tmp_path)}
    counts = {name: [n for batch in last for n in batch if named[n].document == name] for name in found}
    assert {name: row["rows"] for name, row in found.items()} == {name: len(counts[name]) for name in found}
    assert set(found) == {named[number].document for batch in last for number in batch} - {""}
    assert [row["loss"] for row in _told(tmp_path)] == sorted(
        (row["loss"] for row in found.values()), reverse=True
    )
    assert told[1] != told[2], "each epoch begins anew"
    all_of_it = sum(
        loss * sum(num_labels(named[n]) for n in batch) for loss, batch in zip(losses, last, strict=True)
    )
    of_documents = sum(
        row["loss"] * sum(num_labels(named[n]) for n in counts[name]) for name, row in found.items()
    )
    assert 0 < of_documents < all_of_it, "rows of no document are left out"
    worst = ", ".join(f"{row['document']} {row['loss']:.2f}" for row in _told(tmp_path)[:3])
    assert f"least learned: {worst} nats a token" in caplog.text


def test_the_sum_over_documents_is_the_loss_of_the_steps_and_no_bit_of_the_adapter_changes(
    new_model, named, tmp_path
) -> None:
    rows = [replace(row, document=row.document or "e.md") for row in named]
    settings, states, losses = replace(SETTINGS, epochs=1, micro_batch=2), [], []
    for name, tally in (("with", Tally(rows, tmp_path)), ("without", None)):
        model = new_model(dropout=0.1)
        loop = Loop(model, 0, rows, settings, tmp_path / name, lambda: 0.0, lambda row: None, tally=tally)
        losses.append([row["loss"] for row in loop.run().history])
        states.append(trained_state(model))
    assert losses[0] == losses[1]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    batches = epoch_batches(rows, 0, settings.seed, settings.batch_size)
    sizes = [sum(num_labels(rows[n]) for n in batch) for batch in batches]
    labels = Counter()
    for number in (number for batch in batches for number in batch):
        labels[rows[number].document] += num_labels(rows[number])
    total = sum(row["loss"] * labels[row["document"]] for row in _told(tmp_path))
    expected = sum(loss * size for loss, size in zip(losses[0], sizes, strict=True))
    assert total == pytest.approx(expected, rel=1e-4)


def test_processes_tell_together_what_one_tells_and_only_the_main_one_writes(
    named, tmp_path, monkeypatch
) -> None:
    batch, source = list(range(7)), torch.Generator().manual_seed(1)
    losses = {n: torch.rand(num_labels(named[n]), generator=source) for n in batch}

    def seen(parts):
        return [(part, torch.cat([losses[n] for n in part])) for part, weight in parts if weight]

    alone = Tally(named, tmp_path)
    alone.add(0, seen([(batch, 1.0)]))
    alone.tell()
    expected = _told(tmp_path)
    means = [
        float(torch.cat([losses[n] for n in batch if named[n].document == name]).mean())
        for name in NAMES
        if name
    ]
    assert [row["loss"] for row in expected] == pytest.approx(sorted(means, reverse=True), abs=1e-5)
    both = [Tally(named, tmp_path / "two") for _ in range(2)]
    (tmp_path / "two").mkdir()
    for rank, tally in enumerate(both):
        tally.add(0, seen(share_of(named, batch, 2, rank, 2, shared=False)))
    monkeypatch.setattr(distributed, "total", lambda values: both[0]._sums + both[1]._sums)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    both[1].tell()
    assert not (tmp_path / "two" / documents.FILE).exists()
    monkeypatch.setattr(distributed, "is_main", lambda: True)
    both[0].tell()
    assert _told(tmp_path / "two") == expected


def test_without_documents_nothing_is_told(encoded, tmp_path) -> None:
    tally = Tally([replace(row, document="") for row in encoded], tmp_path)
    tally.add(0, [([0], torch.ones(num_labels(encoded[0])))])
    tally.tell()
    assert not (tmp_path / documents.FILE).exists()
