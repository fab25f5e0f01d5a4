"""Which documents are not being learned: the trained model's loss on rows of each. Knows rows; not the loop."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from factory.lora.batches import EncodedRow, micro_batches, num_labels
from factory.lora.engine import Engine

ROWS_EACH = 12  # forward passes only: a percent or two of what training took


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
            float(engine.loss([rows[number] for number in part], None))
            for part in micro_batches(taken, micro_batch)
        )
        loss = total / sum(num_labels(rows[number]) for number in taken)
        losses.append({"document": document, "rows": len(taken), "loss": round(loss, 5)})
    return sorted(losses, key=lambda row: (-row["loss"], row["document"]))
