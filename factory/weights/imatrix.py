"""Which input columns matter: the mean square that each matrix of a model meets on the user's own text.

What llama.cpp's `llama-imatrix` measures, taken by forward hooks on the Hugging Face model instead. Rotary
reordering moves rows only, so the columns need no reordering for the architectures in `gguf_names`.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from factory.errors import QuantizeError
from factory.weights.conversations import encode, load_tokenizer, read_messages, spread
from factory.weights.gguf_files import BASE_FILE
from factory.weights.gguf_header import check_gguf_header
from factory.weights.gguf_names import GgufNames
from factory.weights.merged import load_model
from factory.weights.quantizer import write_imatrix

CHUNK_TOKENS = 512  # llama-imatrix's default context
SHORTEST_TOKENS = 8  # no conversation is shorter, so more rows than this allows need not be encoded


def make_imatrix(path: Path, merged: Path, dataset: Path, base: Path, num_tokens: int) -> None:
    """Write the importance matrix of a merged model, measured on the dataset's training conversations.

    Raises:
        QuantizeError: there are none.
    """
    tokenizer = load_tokenizer(merged)
    rows = list(read_messages(dataset / "train.jsonl"))
    conversations = [
        encode(tokenizer, messages).token_ids for messages in spread(rows, num_tokens // SHORTEST_TOKENS)
    ]
    chunks = pack_chunks(conversations, num_tokens)
    if not chunks:
        raise QuantizeError("There is no training text to measure an importance matrix on: check the dataset")
    names = GgufNames(check_gguf_header(base / BASE_FILE))
    write_imatrix(path, measure_imatrix(merged, chunks, names))


def pack_chunks(conversations: Sequence[Sequence[int]], num_tokens: int) -> list[list[int]]:
    """Return conversations end to end in chunks, evenly from all of them, about `num_tokens` altogether."""
    average = sum(map(len, conversations)) / max(len(conversations), 1)
    chosen = spread(conversations, math.ceil(num_tokens / max(average, 1)))
    stream = [token for ids in chosen for token in ids][:num_tokens]
    return [stream[i : i + CHUNK_TOKENS] for i in range(0, len(stream), CHUNK_TOKENS)]


def measure_imatrix(
    folder: Path, chunks: Sequence[Sequence[int]], names: GgufNames
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the mean square of each input column of each matrix, by GGUF tensor name.

    Args:
        folder: the merged model.
        chunks: token ids to run it on, see `pack_chunks`.
        names: the naming rules of the base's GGUF file.

    Returns:
        Arrays of shape (inputs of the matrix,); none for embeddings and the output layer.
    """
    model = load_model(folder)
    sums: dict[str, torch.Tensor] = {}
    squares = _Squares()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            stored = names.of(f"{name}.weight")
            sums[stored] = torch.zeros(module.in_features, dtype=torch.float64)
            module.register_forward_pre_hook(partial(squares.add_to, sums[stored]))
    with torch.inference_mode():
        for chunk in chunks:
            model.base_model(input_ids=torch.tensor([list(chunk)]), use_cache=False)
    num_tokens = sum(map(len, chunks))
    return {name: (total / num_tokens).float().numpy() for name, total in sums.items()}


class _Squares:
    """Sums of squares over tokens; query, key and value read one input, so the last one is remembered."""

    def __init__(self) -> None:
        self._input: torch.Tensor | None = None
        self._sums = torch.empty(0)

    def add_to(self, total: torch.Tensor, _module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0] is not self._input:
            self._input = inputs[0]
            self._sums = torch.linalg.vector_norm(inputs[0].float(), dim=(0, 1)).double().square()
        total.add_(self._sums)
