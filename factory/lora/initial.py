"""What A and B of a new adapter hold before its first step: weights and data looked at. Knows no training.

PiSSA (arXiv 2404.02948) moves a weight's principal part into them, LoftQ (2310.08659) what quantization lost, EVA
(2410.07170) points A where the inputs vary. After the first two, a step starts from the base as it was, but the
adapter alone means nothing on it: `factory.lora.adapter` puts that right when it saves.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import initialize_lora_eva_weights
from peft.tuners.tuners_utils import cast_adapter_dtype
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open

from factory.errors import TrainError
from factory.lora.batches import EncodedRow, collate

PISSA = "pissa_niter_16"  # peft's randomised SVD, seconds where the whole one takes minutes
EVA_TOKENS = 512  # in a batch, at least, where there are so many
EVA_BATCHES = 8
EVA_PASSES = 200  # a few dozen are enough where the rows allow it
ADAPTER = "default"


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Hold a base's weights in float32 while the block takes parts out of them, then in their own type again."""
    dtype = model.dtype
    own = [value for value in model.parameters() if value.is_floating_point()]
    for value in own:
        value.data = value.data.float()
    yield
    for name, value in model.named_parameters():
        if "lora_" not in name:
            value.data = value.data.to(dtype)


@torch.no_grad()
def begin_with_quantization_error(model: Any, layers: Iterator[tuple[str, Any]], base: Path) -> None:
    """Set A and B of layers on 4-bit weights to the best low-rank form of what quantization took from these.

    peft's own `replace_lora_weights_loftq` does so on a GPU only, and for a scale of one.
    """
    with safe_open(base / "model.safetensors", framework="pt") as file:
        for name, layer in layers:
            linear = layer.get_base_layer()
            if getattr(linear.weight, "quant_state", None) is None:
                continue
            a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            exact = file.get_tensor(f"{name}.weight").to(a)
            left, sizes, right = torch.linalg.svd(
                exact - dequantize_module_weight(linear).to(a), full_matrices=False
            )
            root_R = (sizes[: len(a)] / layer.scaling[ADAPTER]).sqrt()
            a.copy_(root_R[:, None] * right[: len(a)])
            b.copy_(left[:, : len(a)] * root_R)


def begin_with_inputs(model: Any, rows: Sequence[EncodedRow]) -> None:
    """Set A to the main directions of each layer's inputs on some rows, with more ranks where these say more.

    Raises:
        TrainError: the rows are too few to tell the directions.
    """
    config = model.peft_config[ADAPTER]
    ranks = max([config.r, *config.rank_pattern.values()])
    batches = _batches(rows, round(ranks * config.eva_config.rho))
    passes = 0

    def forward(model: Any, batch: dict[str, torch.Tensor]) -> None:
        nonlocal passes
        passes += 1
        if passes > EVA_PASSES:
            raise TrainError(
                f"train.init eva finds no {ranks} settled directions in {EVA_PASSES} passes: lower train.rank (now "
                f"{config.r}), or set train.init to default"
            )
        model(**batch)

    initialize_lora_eva_weights(model, batches, forward_fn=forward, show_progress_bar=False)
    cast_adapter_dtype(model, ADAPTER)  # layers of another rank are new ones, in the base's type


def _batches(rows: Sequence[EncodedRow], num_directions: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of rows from all over the data, each of enough tokens to tell so many directions."""
    total = sum(len(row.ids) for row in rows)
    if total < num_directions:
        raise TrainError(
            f"train.init eva needs rows of {num_directions} tokens, the dataset has {total}: lower train.rank, or set "
            "train.init to default"
        )
    enough = min(max(EVA_TOKENS, num_directions), total)
    batches: list[dict[str, torch.Tensor]] = []
    waiting: list[EncodedRow] = []
    for row in random.Random(0).sample(rows, len(rows)):
        waiting.append(row)
        if sum(len(row.ids) for row in waiting) >= enough and len(batches) < EVA_BATCHES:
            batch = collate(waiting, pad_id=0)
            batches.append({"input_ids": batch.ids, "attention_mask": batch.mask})
            waiting = []
    return batches
