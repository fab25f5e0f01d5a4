"""Which documents are not being learned: each one's loss, while training and after it. Knows rows; not the loop."""

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from factory import store
from factory.lora import distributed
from factory.lora.batches import EncodedRow, micro_batches, num_labels
from factory.lora.engine import Engine

logger = logging.getLogger(__name__)
FILE = "document_loss.jsonl"
ROWS_EACH = 12  # forward passes only: a percent or two of what training took
NAMED = 3  # documents that the log names
Seen = tuple[Sequence[int], torch.Tensor]  # rows' numbers, and the losses of all their labels, row after row


class Tally:
    """Each document's loss in the rows of one epoch, as its steps computed it: before each step, dropout included.

    With distillation it is the mixture that is trained on. An epoch that a resumed run is in counts from there on.
    Several processes have to call alike; each adds its own rows, and the main one tells the sum.
    """

    def __init__(self, rows: Sequence[EncodedRow], folder: Path) -> None:
        """Count nothing yet; `folder` gets the file."""
        self._folder, self._epoch = folder, 0
        self._documents = sorted({row.document for row in rows if row.document})
        places = {document: place for place, document in enumerate(self._documents)}
        self._places = [places.get(row.document) for row in rows]
        self._labels = [num_labels(row) for row in rows]
        self._sums = torch.zeros((len(places), 3), dtype=torch.float64)  # loss, labels and rows of each

    def add(self, epoch: int, seen: Sequence[Seen]) -> None:
        """Count what a step of an epoch has computed; a new epoch begins from zero."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._sums.zero_()
        for numbers, losses in seen:
            parts = losses.cpu().split([self._labels[number] for number in numbers])
            for number, part in zip(numbers, parts, strict=True):
                place = self._places[number]
                if place is not None:
                    self._sums[place] += torch.tensor([float(part.sum()), len(part), 1], dtype=torch.float64)

    def tell(self) -> None:
        """Write each document's loss so far in this epoch, the worst first, and log the worst ones."""
        sums = distributed.total(self._sums).tolist()
        losses = [
            {"document": document, "rows": int(rows), "loss": round(loss / labels, 5)}
            for document, (loss, labels, rows) in zip(self._documents, sums, strict=True)
            if labels
        ]
        if losses and distributed.is_main():
            losses = worst_first(losses)
            write(self._folder, losses)
            worst = ", ".join(f"{row['document']} {row['loss']:.2f}" for row in losses[:NAMED])
            logger.info("least learned: %s nats a token", worst)


def worst_first(losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return documents with the highest loss first."""
    return sorted(losses, key=lambda row: (-row["loss"], row["document"]))


def write(folder: Path, losses: Sequence[dict[str, Any]]) -> None:
    """Write the loss by document, in the order given, in the place of what was there."""
    lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in losses)
    store.write_text(folder / FILE, lines)


@torch.no_grad()
def document_losses(engine: Engine, rows: Sequence[EncodedRow], micro_batch: int) -> list[dict[str, Any]]:
    """Return each document's mean loss in nats a token on up to `ROWS_EACH` of its rows, the worst first.

    Rows that come from no document are left out.
    """
    by_document: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.document:
            by_document[row.document].append(number)
    engine.refresh()
    losses = []
    for document, numbers in by_document.items():
        taken = numbers[:: -(-len(numbers) // ROWS_EACH)]
        total = sum(
            float(engine.token_losses([rows[number] for number in part], None).sum())
            for part in micro_batches(taken, micro_batch)
        )
        loss = total / sum(num_labels(rows[number]) for number in taken)
        losses.append({"document": document, "rows": len(taken), "loss": round(loss, 5)})
    return worst_first(losses)
