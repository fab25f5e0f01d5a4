import numpy as np
import pytest

from factory.errors import QuantizeError
from factory.weights.gguf_header import check_gguf_header
from factory.weights.gguf_names import KNOWN, GgufNames, expert_of, interleave_halves
from tests.tiny import interleave, make_tiny_base, rewrite_gguf


def test_rows_change_places_as_llama_cpp_expects():
    rows = np.arange(8).reshape(8, 1)

    assert interleave_halves(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleave_halves(rows, 1).ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    wide = np.random.default_rng(0).normal(size=(64, 5))
    assert np.array_equal(interleave_halves(wide, 4), interleave(wide, 4))


def test_names_and_orders_of_a_llama(tiny_base):
    names = GgufNames(check_gguf_header(tiny_base / "base-F16.gguf"))
    rows = np.arange(64).reshape(64, 1)

    assert names.of("model.layers.1.self_attn.q_proj.weight") == "blk.1.attn_q.weight"
    assert names.of("model.layers.0.mlp.down_proj.weight") == "blk.0.ffn_down.weight"
    query, value = (f"model.layers.0.self_attn.{part}_proj.weight" for part in "qv")
    assert not np.array_equal(names.order(query, rows), rows)
    assert np.array_equal(names.order(value, rows), rows)
    with pytest.raises(QuantizeError, match=r"'lm_head\.weight' has no place"):
        names.of("lm_head.weight")
    with pytest.raises(QuantizeError, match=r"'model\.unheard_of\.weight' has no place"):
        names.of("model.unheard_of.weight")


def test_rows_of_a_qwen_stay_where_they_are(tmp_path):
    names = GgufNames(check_gguf_header(make_tiny_base(tmp_path, "qwen3") / "base-F16.gguf"))
    rows = np.arange(64).reshape(64, 1)

    assert np.array_equal(names.order("model.layers.0.self_attn.q_proj.weight", rows), rows)


def test_an_architecture_whose_order_is_not_known_is_refused(tiny_base, tmp_path):
    header = check_gguf_header(tiny_base / "base-F16.gguf")
    header.keys["general.architecture"] = "mamba"

    with pytest.raises(QuantizeError, match=r"'mamba' cannot be exported.*qwen3"):
        GgufNames(header)
    assert "llama" in KNOWN


def test_norms_of_a_gemma_are_refused(tiny_base):
    header = check_gguf_header(tiny_base / "base-F16.gguf")
    header.keys["general.architecture"] = "gemma3"
    names = GgufNames(header)

    with pytest.raises(QuantizeError, match="leave norms out"):
        names.order("model.norm.weight", np.ones(4))
    assert names.order("model.layers.0.self_attn.q_proj.weight", np.ones(4)).shape == (4,)


def test_a_rewritten_file_is_the_same_file(tiny_base, tmp_path):
    again = rewrite_gguf(tiny_base / "base-F16.gguf", tmp_path / "x.gguf")

    assert check_gguf_header(again) == check_gguf_header(tiny_base / "base-F16.gguf")


@pytest.mark.parametrize(
    ("family", "weight"),
    [("mixtral", "model.layers.1.block_sparse_moe.experts.3.w1.weight"),
     ("qwen3moe", "model.layers.1.mlp.experts.3.gate_proj.weight")],
)  # fmt: skip
def test_all_experts_of_a_layer_are_one_tensor_and_are_told_apart(tmp_path, family, weight):
    names = GgufNames(check_gguf_header(make_tiny_base(tmp_path, family) / "base-F16.gguf"))

    assert names.of(weight) == names.of(weight.replace(".3.", ".0.")) == "blk.1.ffn_gate_exps.weight"
    assert (expert_of(weight), expert_of(weight.replace(".3.", ".12."))) == (3, 12)
    assert expert_of("model.layers.1.self_attn.q_proj.weight") is None
