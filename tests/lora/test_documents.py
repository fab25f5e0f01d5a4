"""Loss by document: the mean over its rows' tokens, the worst first."""

from dataclasses import replace

import pytest
import torch

from factory.lora import documents
from factory.lora.batches import num_labels
from factory.lora.documents import document_losses
from factory.lora.engine import FusedEngine


@pytest.fixture
def engine(new_model):
    return FusedEngine(new_model(trained=True), 0, torch.float32)


def _loss(engine, rows) -> float:
    with torch.no_grad():
        return sum(float(engine.loss([row], None)) for row in rows) / sum(map(num_labels, rows))


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
