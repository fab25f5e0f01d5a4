"""One tiny base and adapter for all tests of the weights."""

import pytest
import torch

from tests.tiny import make_tiny_adapter, make_tiny_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A prepared base folder with a random two-layer Llama."""
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base, tmp_path_factory):
    """A random adapter on all linear layers of the tiny base."""
    return make_tiny_adapter(tiny_base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
