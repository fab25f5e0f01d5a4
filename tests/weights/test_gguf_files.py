import shutil

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from factory.errors import QuantizeError
from factory.weights import gguf_files, merged
from factory.weights.delta import read_adapter
from factory.weights.gguf_header import check_gguf_header
from factory.weights.gguf_model import GgufModel
from factory.weights.parity import top_differences, torch_logprobs
from tests.tiny import EXPERT_CONFIGS, make_tiny_adapter, make_tiny_base, rewrite_gguf

IDS = [1, 87, 260, 5, 99, 301, 2, 201, 1, 77, 30, 31, 222]
KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 16},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 64, "layers.1.mlp.up_proj": 4}},
    "rank_pattern": {"rank_pattern": {"k_proj": 4, "down_proj": 2}},
    "both": {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {".*_proj": 5}},
    "some_layers": {"layers_to_transform": [1]},
    "no_attention": {"target_modules": ["up_proj"]},
}


def _merge(base, adapter, folder):
    folder.mkdir()
    merged.write_merged(merged.merge_in_memory(read_adapter(adapter), base), base, folder, "float16")
    return folder


def _difference(expected, path, lora=None):
    with GgufModel(path, lora, threads=1) as model:
        return top_differences(expected, model.logprobs(IDS)).max()


@pytest.mark.parametrize("kind", KINDS)
def test_both_files_say_what_the_adapter_says(tiny_base, tmp_path, kind):
    adapter = make_tiny_adapter(tiny_base, tmp_path / "adapter", **KINDS[kind])
    expected = torch_logprobs(merged.load_adapted(tiny_base, adapter), IDS, 0)
    folder = _merge(tiny_base, adapter, tmp_path / "merged")
    gguf_files.write_merged_gguf(tiny_base, folder, tmp_path / "model.gguf", "x")
    gguf_files.write_adapter_gguf(read_adapter(adapter), tiny_base, tmp_path / "adapter.gguf", "x", "0")

    assert _difference(expected, tiny_base / "base-F16.gguf") > 0.2
    assert _difference(expected, tmp_path / "model.gguf") < 0.05
    assert _difference(expected, tiny_base / "base-F16.gguf", tmp_path / "adapter.gguf") < 0.05


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_families_are_exported_right(tmp_path, family):
    base = make_tiny_base(tmp_path / "base", family)
    test_both_files_say_what_the_adapter_says(base, tmp_path, "plain")


@pytest.mark.parametrize("family", EXPERT_CONFIGS)
def test_merged_files_of_models_with_experts_say_what_the_adapter_says(tmp_path, family):
    base = make_tiny_base(tmp_path / "base", family)
    trained = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "strength": 0.3}
    adapter = make_tiny_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], **trained)
    plain = torch_logprobs(merged.load_model(base), IDS, 0)
    expected = torch_logprobs(merged.load_adapted(base, adapter), IDS, 0)
    folder = _merge(base, adapter, tmp_path / "merged")
    num_changed = gguf_files.write_merged_gguf(base, folder, tmp_path / "model.gguf", "x")

    assert num_changed == 2 * (2 + 3), (
        "queries and values, and the three matrices of all experts, in two layers"
    )
    assert _difference(plain, base / "base-F16.gguf") < 0.05
    assert _difference(expected, base / "base-F16.gguf") > 0.2
    assert _difference(expected, tmp_path / "model.gguf") < 0.05


def test_an_expert_alone_changes_its_own_bytes_alone(tmp_path):
    base = make_tiny_base(tmp_path / "base", "qwen3moe")
    folder = shutil.copytree(base, tmp_path / "merged")
    tensors = load_file(folder / "model.safetensors")
    changed = "model.layers.1.mlp.experts.2.up_proj.weight"
    tensors[changed] = tensors[changed] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    gguf_files.write_merged_gguf(base, folder, tmp_path / "model.gguf", "x")
    before, after = (
        {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
        for path in (base / "base-F16.gguf", tmp_path / "model.gguf")
    )

    assert [name for name in before if not np.array_equal(before[name], after[name])] == [
        "blk.1.ffn_up_exps.weight"
    ]
    found = (before["blk.1.ffn_up_exps.weight"] != after["blk.1.ffn_up_exps.weight"]).any(axis=(1, 2))
    assert found.tolist() == [False, False, True, False]
    assert np.array_equal(after["blk.1.ffn_up_exps.weight"][2], tensors[changed].numpy())


def test_the_merged_file_holds_the_very_numbers_of_the_merged_folder(tiny_base, tiny_adapter, tmp_path):
    folder = _merge(tiny_base, tiny_adapter, tmp_path / "merged")
    num_changed = gguf_files.write_merged_gguf(tiny_base, folder, tmp_path / "model.gguf", "x")
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    weights = load_file(folder / "model.safetensors")

    assert num_changed == 14
    value = weights["model.layers.1.self_attn.v_proj.weight"].numpy()
    assert np.array_equal(stored["blk.1.attn_v.weight"], value)
    query = weights["model.layers.1.self_attn.q_proj.weight"].numpy()
    assert sorted(map(tuple, stored["blk.1.attn_q.weight"])) == sorted(map(tuple, query))


def test_behaviour_is_copied_and_origins_are_not(tiny_base, tiny_adapter, tmp_path):
    source = rewrite_gguf(
        tiny_base / "base-F16.gguf", tmp_path / "named.gguf", keys={"general.name": "/home/someone/secret"}
    )
    base = make_tiny_base(tmp_path / "base")
    source.replace(base / "base-F16.gguf")
    folder = _merge(base, tiny_adapter, tmp_path / "merged")
    gguf_files.write_merged_gguf(base, folder, tmp_path / "model.gguf", "tiny adapted")
    before, after = check_gguf_header(base / "base-F16.gguf"), check_gguf_header(tmp_path / "model.gguf")

    assert after.keys["general.name"] == "tiny adapted"
    assert after.keys["general.file_type"] == 1
    assert b"/home/" not in (tmp_path / "model.gguf").read_bytes()
    assert {name: value for name, value in after.keys.items() if not name.startswith("general.")} == {
        name: value for name, value in before.keys.items() if not name.startswith("general.")
    }
    assert after.array_lengths == before.array_lengths
    assert [tensor.name for tensor in after.tensors] == [tensor.name for tensor in before.tensors]


def test_the_adapter_file_names_its_base_and_scale(tiny_base, tmp_path):
    adapter = read_adapter(make_tiny_adapter(tiny_base, tmp_path, r=16, lora_alpha=8, use_rslora=True))
    gguf_files.write_adapter_gguf(adapter, tiny_base, tmp_path / "adapter.gguf", "tiny", "abc123")
    keys = check_gguf_header(tmp_path / "adapter.gguf").keys

    assert keys["general.type"] == "adapter"
    assert keys["adapter.type"] == "lora"
    assert keys["adapter.lora.alpha"] == pytest.approx(8 * 16**0.5)
    assert keys[gguf_files.BASE_SHA256_KEY] == "abc123"


def test_dora_goes_into_the_merged_file(tiny_base, tmp_path):
    adapter = make_tiny_adapter(tiny_base, tmp_path / "adapter", use_dora=True)
    expected = torch_logprobs(merged.load_adapted(tiny_base, adapter), IDS, 0)
    folder = _merge(tiny_base, adapter, tmp_path / "merged")
    gguf_files.write_merged_gguf(tiny_base, folder, tmp_path / "model.gguf", "x")

    assert _difference(expected, tmp_path / "model.gguf") < 0.05


def test_a_weight_without_a_place_stops_the_export_and_leaves_nothing(tiny_base, tiny_adapter, tmp_path):
    folder = _merge(tiny_base, tiny_adapter, tmp_path / "merged")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.extra.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")

    with pytest.raises(QuantizeError, match=r"'model\.extra\.weight' has no place"):
        gguf_files.write_merged_gguf(tiny_base, folder, tmp_path / "model.gguf", "x")
    assert not list(tmp_path.glob("model.gguf*"))


def test_norms_trained_with_the_adapter_are_exported(tiny_base, tmp_path):
    adapter = make_tiny_adapter(tiny_base, tmp_path / "adapter", modules_to_save=["norm"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    norm = next(name for name in tensors if name.endswith("model.norm.weight"))
    tensors[norm] *= 1.5
    save_file(tensors, adapter / "adapter_model.safetensors")
    expected = torch_logprobs(merged.load_adapted(tiny_base, adapter), IDS, 0)
    folder = _merge(tiny_base, adapter, tmp_path / "merged")
    gguf_files.write_merged_gguf(tiny_base, folder, tmp_path / "model.gguf", "x")

    assert _difference(expected, tmp_path / "model.gguf") < 0.05


def test_numbers_beyond_f16_are_refused(tiny_base, tiny_adapter, tmp_path):
    folder = tmp_path / "merged"
    folder.mkdir()
    model = merged.merge_in_memory(read_adapter(tiny_adapter), tiny_base)
    merged.write_merged(model, tiny_base, folder, "float32")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, folder / "model.safetensors")

    with pytest.raises(QuantizeError, match="does not fit F16"):
        gguf_files.write_merged_gguf(tiny_base, folder, tmp_path / "model.gguf", "x")
