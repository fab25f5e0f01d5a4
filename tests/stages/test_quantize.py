import logging
import typing

import numpy as np
import pytest
from pydantic import ValidationError

from factory import hardware, store
from factory.errors import QuantizeError
from factory.stages import quantize as stage
from factory.stages.merge import MergeConfig, merge
from factory.stages.quantize import QuantizeConfig, quantize
from tests.tiny import make_tiny_adapter, make_tiny_base, make_tiny_dataset

CONFIG = QuantizeConfig(imatrix_tokens=64, threads=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    base = make_tiny_base(folder / "base")
    adapter = make_tiny_adapter(base, folder / "adapter")
    (folder / "merged").mkdir()
    merge(MergeConfig(), adapter=adapter, base=base, work=folder / "merged")
    dataset = make_tiny_dataset(folder / "dataset")
    return {"adapter": adapter, "merged": folder / "merged", "base": base, "dataset": dataset}


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    work = tmp_path_factory.mktemp("gguf")
    return work, quantize(CONFIG, **inputs, work=work)


def test_every_file_is_made_and_described(made):
    work, counts = made
    report = store.read_json(work / "quantize.json")
    names = ["adapter.gguf", "model-F16.gguf", "model-Q4_K_M.gguf", "model-Q8_0.gguf"]

    assert sorted(path.name for path in work.glob("*.gguf")) == names == sorted(report["files"])
    for name, entry in report["files"].items():
        assert entry["bytes"] == (work / name).stat().st_size == counts["files"][name]
        assert entry["sha256"] == store.hash_file(work / name)
        assert entry["seconds"] >= 0
    assert report["files"]["model-Q4_K_M.gguf"]["num_fallbacks"] == 14
    assert report["files"]["model-Q4_K_M.gguf"]["types"] == {"Q5_0": 12, "F32": 5, "Q8_0": 3}
    assert report["files"]["model-F16.gguf"]["bits_per_weight"] > 16
    assert counts["skipped"] == {}


def test_no_file_holds_a_local_path(made, inputs):
    root = str(inputs["base"].parent).encode()

    for path in made[0].iterdir():
        assert root not in path.read_bytes(), path.name


def test_the_importance_matrix_shapes_the_file(made, inputs, tmp_path):
    quantize(QuantizeConfig(types=("Q4_K_M",), imatrix_tokens=0, threads=1), **inputs, work=tmp_path)

    assert not (tmp_path / "imatrix.npz").exists()
    plain, weighted = ((folder / "model-Q4_K_M.gguf").read_bytes() for folder in (tmp_path, made[0]))
    assert len(plain) > 0
    assert plain != weighted


def test_the_effective_mix_is_logged(inputs, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="factory.stages.quantize")
    quantize(QuantizeConfig(types=("Q4_K_M",), imatrix_tokens=0, threads=1), **inputs, work=tmp_path)

    assert "model-Q4_K_M.gguf holds 12 Q5_0, 5 F32, 3 Q8_0: " in caplog.text
    assert " bits a weight, 14 fallbacks, " in caplog.text


def test_an_interrupted_run_keeps_what_is_finished(inputs, tmp_path, monkeypatch):
    from factory.weights import quantizer

    real = quantizer.quantize_file

    def interrupt(source, target, type_name, *rest):
        if type_name == "Q4_K_M":
            (tmp_path / f"{target.name}.unfinished").write_bytes(b"half")
            raise KeyboardInterrupt
        real(source, target, type_name, *rest)

    monkeypatch.setattr(quantizer, "quantize_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize(CONFIG, **inputs, work=tmp_path)
    kept = {
        path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*") if path.suffix in {".gguf", ".npz"}
    }
    assert set(kept) == {"adapter.gguf", "model-F16.gguf", "model-Q8_0.gguf", "imatrix.npz"}

    monkeypatch.setattr(quantizer, "quantize_file", real)
    counts = quantize(CONFIG, **inputs, work=tmp_path)
    assert set(counts["files"]) == {"adapter.gguf", "model-F16.gguf", "model-Q8_0.gguf", "model-Q4_K_M.gguf"}
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_finished_file_that_was_cut_is_made_again(inputs, made, tmp_path):
    for path in made[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = (tmp_path / "model-Q8_0.gguf").read_bytes()
    (tmp_path / "model-Q8_0.gguf").write_bytes(whole[:500])
    quantize(CONFIG, **inputs, work=tmp_path)

    assert (tmp_path / "model-Q8_0.gguf").read_bytes() == whole


def test_what_a_gguf_adapter_cannot_hold_is_left_out_with_a_reason(inputs, tmp_path):
    dora = make_tiny_adapter(inputs["base"], tmp_path / "dora", use_dora=True)
    (tmp_path / "merged").mkdir()
    merge(MergeConfig(), adapter=dora, base=inputs["base"], work=tmp_path / "merged")
    work = tmp_path / "gguf"
    work.mkdir()
    changed = inputs | {"adapter": dora, "merged": tmp_path / "merged"}
    counts = quantize(QuantizeConfig(types=("Q8_0",), imatrix_tokens=0, threads=1), **changed, work=work)

    assert "DoRA" in counts["skipped"]["adapter.gguf"]
    assert "DoRA" in store.read_json(work / "quantize.json")["skipped"]["adapter.gguf"]
    assert not (work / "adapter.gguf").exists()
    assert (work / "model-Q8_0.gguf").exists()


def test_a_disk_that_is_too_small_is_noticed_first(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 12345)

    with pytest.raises(QuantizeError, match="12,345 left"):
        quantize(CONFIG, **inputs, work=tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_known_types_are_offered():
    from factory.weights.quantizer import FILE_TYPES

    assert set(typing.get_args(stage.FileType)) == set(FILE_TYPES)
    with pytest.raises(ValidationError, match="Q4_K_M"):
        QuantizeConfig(types=("Q4_K_XL",))
    assert "threads" not in QuantizeConfig(threads=2).model_dump()


def test_the_f16_file_holds_the_merged_weights(made, inputs):
    import gguf
    from safetensors.torch import load_file

    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(made[0] / "model-F16.gguf").tensors}
    weights = load_file(inputs["merged"] / "model.safetensors")

    assert np.array_equal(stored["blk.0.ffn_up.weight"], weights["model.layers.0.mlp.up_proj.weight"].numpy())
    assert np.array_equal(stored["token_embd.weight"], weights["model.embed_tokens.weight"].numpy())
