import numpy as np
import pytest
import torch

from factory.errors import QuantizeError
from factory.weights import imatrix
from factory.weights.gguf_header import check_gguf_header
from factory.weights.gguf_names import GgufNames
from factory.weights.merged import load_model
from factory.weights.quantizer import read_imatrix
from tests.tiny import make_tiny_dataset

CHUNKS = [[1, 87, 260, 5, 99], [301, 2, 201]]


@pytest.fixture(scope="module")
def names(tiny_base):
    return GgufNames(check_gguf_header(tiny_base / "base-F16.gguf"))


def test_the_mean_squares_are_those_of_the_inputs(tiny_base, names):
    model = load_model(tiny_base)
    seen = []
    model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for chunk in CHUNKS:
            model(input_ids=torch.tensor([chunk]))
    expected = torch.cat([part[0] for part in seen]).double().square().mean(0)

    found = imatrix.measure_imatrix(tiny_base, CHUNKS, names)
    assert np.allclose(found["blk.0.attn_q.weight"], expected, rtol=1e-5)
    assert np.array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_k.weight"])


def test_every_matrix_but_the_embedding_is_covered(tiny_base, names):
    found = imatrix.measure_imatrix(tiny_base, CHUNKS, names)
    matrices = {tensor.name: tensor.shape[0] for tensor in names.header.tensors if len(tensor.shape) == 2}
    del matrices["token_embd.weight"]

    assert {name: values.size for name, values in found.items()} == matrices
    assert all((values > 0).all() for values in found.values())


def test_chunks_are_taken_evenly_from_all_conversations():
    rows = [[row] * 10 for row in range(200)]
    chunks = imatrix.pack_chunks(rows, 1000)

    assert list(map(len, chunks)) == [512, 488]
    seen = {token for chunk in chunks for token in chunk}
    assert len(seen) == 100
    assert max(seen) > 190
    assert imatrix.pack_chunks(rows[:3], 1000) == [[0] * 10 + [1] * 10 + [2] * 10]
    assert imatrix.pack_chunks([], 10) == []


def test_the_matrix_is_written_from_training_conversations(tiny_base, names, tmp_path):
    dataset = make_tiny_dataset(tmp_path / "dataset")
    imatrix.make_imatrix(tmp_path / "imatrix.npz", tiny_base, dataset, tiny_base, 100)

    assert len(read_imatrix(tmp_path / "imatrix.npz")) == 14


def test_a_dataset_without_text_is_refused(tiny_base, tmp_path):
    with pytest.raises(QuantizeError, match="no training text"):
        imatrix.make_imatrix(tmp_path / "imatrix.npz", tiny_base, tmp_path, tiny_base, 100)
