"""A tiny base for the tests of training, on one thread: matrices this small only wait for a second one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from factory.lora import attach, batches
from factory.lora.adapter import AdapterSettings, new_adapter
from factory.rows import Example
from tests.made import make_examples, make_fact
from tests.tiny import TINY_ROWS, make_tiny_base

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    """A prepared base folder with a random two-layer Llama."""
    return make_tiny_base(tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(scope="session")
def tokenizer(base):
    return attach.load_tokenizer(base)


@pytest.fixture(scope="session")
def rows() -> list[Example]:
    """Two wordings each of twelve facts, of different lengths."""
    made = []
    for number in range(8):
        fact = make_fact(number, f"{number} kg" + " and a half" * (number % 3))
        made += make_examples(
            fact, {"what_of": f"Weight of TD-{number}?", "tell": f"How heavy is TD-{number}, please?"}
        )
    for number, (question, answer) in enumerate(TINY_ROWS):
        made += make_examples(
            make_fact(90 + number, answer), {"what_of": question, "tell": f"Tell me: {question}"}
        )
    return made


@pytest.fixture(scope="session")
def encoded(tokenizer, rows) -> list[batches.EncodedRow]:
    return batches.encode(tokenizer, rows, 256)


@pytest.fixture
def new_model(base) -> Callable[..., Any]:
    """Return a function that loads the base with a fresh adapter, the same each time."""

    def make(first_layer: int = 0, dropout: float = 0.0, trained: bool = False, **method: Any) -> Any:
        attach.seed_everything(3)
        model = attach.load_model(base, torch.float32, "cpu")
        fields = {"rank": 4, "alpha": 8.0, "targets": TARGETS, "layers": tuple(range(first_layer, 2))}
        model = new_adapter(model, AdapterSettings(**fields | {"dropout": dropout} | method))
        if trained:  # a fresh B is zero, and so are half of the gradients
            for name, value in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(value, std=0.05)
        return model

    return make
