import json
import shutil

import numpy as np
import pytest
import torch

from factory import store
from factory.errors import EvaluateError
from factory.rows import Example, read_rows, write_rows
from factory.stages.merge import MergeConfig, merge
from factory.stages.quantize import QuantizeConfig, quantize
from factory.stages.train import TrainConfig, train
from factory.stages.verify import VerifyConfig, verify
from tests.made import make_fact
from tests.tiny import (
    EXPERT_CONFIGS,
    TINY_NAME,
    interleave,
    make_tiny_adapter,
    make_tiny_base,
    make_tiny_dataset,
    rewrite_gguf,
)

CONFIG = VerifyConfig(
    threads=1, prompts=4, compared_tokens=120, scored_tokens=80, text_lines=20, answer_tokens=24
)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second thread
    yield
    torch.set_num_threads(threads)


def _export(folder, base, adapter, imatrix_tokens=0):
    for name in ("merged", "gguf"):
        (folder / name).mkdir(parents=True)
    merge(MergeConfig(), adapter=adapter, base=base, work=folder / "merged")
    dataset = make_tiny_dataset(folder / "dataset")
    config = QuantizeConfig(types=("Q8_0",), imatrix_tokens=imatrix_tokens, threads=1)
    quantize(
        config, adapter=adapter, merged=folder / "merged", base=base, dataset=dataset, work=folder / "gguf"
    )
    return {
        "adapter": adapter,
        "merged": folder / "merged",
        "gguf": folder / "gguf",
        "base": base,
        "dataset": dataset,
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return _export(folder, base, make_tiny_adapter(base, folder / "adapter", steps=120))


def _failed(inputs, work, gguf=None, **changes):
    """Return the gates that are not met, as name and file."""
    work.mkdir(exist_ok=True)
    verify(CONFIG, **inputs | changes | ({"gguf": gguf} if gguf else {}), work=work, system="")
    return {
        (gate["name"], gate["subject"]) for gate in store.read_json(work / "gates.json") if not gate["passed"]
    }


def _passed(work):
    return {name for name, passed in store.read_json(work / "files.json").items() if passed}


@pytest.fixture
def copied(trained, tmp_path):
    """The files of the trained adapter, in a folder that a test may damage."""
    return shutil.copytree(trained["gguf"], tmp_path / "gguf")


def test_sound_files_pass_every_gate(trained, tmp_path):
    counts = verify(CONFIG, **trained, work=tmp_path, system="Be brief.")
    gates = store.read_json(tmp_path / "gates.json")

    assert [gate for gate in gates if not gate["passed"]] == []
    assert counts["failed"] == []
    assert counts["gates"] == len(gates) == 14
    assert set(gates[0]) == {"name", "subject", "value", "limit", "passed"}
    assert store.read_json(tmp_path / "files.json") == dict.fromkeys(
        [
            "adapter.gguf",
            "adapter_model.safetensors",
            "model-F16.gguf",
            "model-Q8_0.gguf",
            "model.safetensors",
        ],
        True,
    )


def _trained(base, folder, **fields):
    """Train on rows that point at passages and return the adapter's folder and counts."""
    dataset, work = make_tiny_dataset(folder / "rows"), folder / "adapter"
    work.mkdir(parents=True)
    rows = list(read_rows(dataset / "train.jsonl", Example))
    facts = [make_fact(number, row.messages[-1].content) for number, row in enumerate(rows)]
    write_rows(dataset / "facts.jsonl", facts)
    write_rows(
        dataset / "train.jsonl",
        [
            row.model_copy(update={"facts": (fact.id,), "evidence": fact.evidence})
            for row, fact in zip(rows, facts, strict=True)
        ],
    )
    for name in ("valid", "test", "calibration"):
        write_rows(dataset / f"{name}.jsonl", [])
    fixed = {"rank": 8, "learning_rate": 1e-2, "epochs": 120, "recall_every": 999, "device": "cpu"}
    config = TrainConfig(**fixed | {"precision": "float32"} | fields)
    counts = train(config, dataset=dataset, base=base, base_name=TINY_NAME, seed=5, system="", work=work)
    return work, counts


METHODS = {
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora"},
    "pissa": {"init": "pissa", "learning_rate": 3e-3},
    "loftq": {"init": "loftq", "quantization": "nf4"},
    "eva": {"init": "eva", "rank": 4},
    "patterns": {"rank_pattern": {"q_proj": 2, "down_proj": 16}, "alpha_pattern": {"v_proj": 8}},
    "layers": {"layers": (1,), "lora_plus": 4.0},
}


@pytest.mark.parametrize("method", METHODS)
def test_what_every_method_trains_passes_every_gate(base, tmp_path, method):
    if method == "loftq":
        pytest.importorskip("bitsandbytes")
    adapter, _ = _trained(base, tmp_path / "train", **METHODS[method])
    made = _export(tmp_path, base, adapter)

    assert _failed(made, tmp_path / "work") == set()
    assert (made["gguf"] / "adapter.gguf").exists() == (method != "dora")
    assert ("adapter.gguf" in _passed(tmp_path / "work")) == (method != "dora")


def test_an_adapter_that_training_went_on_from_passes_every_gate(base, tmp_path):
    before, _ = _trained(base, tmp_path / "before", epochs=60, variant="rslora", rank=6)
    adapter, _ = _trained(base, tmp_path / "after", epochs=60, continue_from=before)
    made = _export(tmp_path, base, adapter)

    assert (adapter / "adapter_model.safetensors").read_bytes() != (
        before / "adapter_model.safetensors"
    ).read_bytes()
    assert _failed(made, tmp_path / "work") == set()
    assert ("top5_difference", "model-F16.gguf") in _failed(made, tmp_path / "other", adapter=before)


def test_an_adapter_trained_on_preferences_passes_every_gate(base, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    chosen = {"prompt": "Is it red?", "chosen": "It is red.", "rejected": "The pump runs."}
    store.write_text(pairs, json.dumps(chosen))
    adapter, counts = _trained(base, tmp_path / "train", preferences=pairs, dpo_epochs=20)

    assert counts["preferences_learned"] == 1
    assert _failed(_export(tmp_path, base, adapter), tmp_path / "work") == set()


def test_a_distilled_adapter_passes_every_gate(base, trained, tmp_path):
    taught = shutil.copytree(base, tmp_path / "taught")  # a base that knows what the passages say
    shutil.copyfile(trained["merged"] / "model.safetensors", taught / "model.safetensors")
    shutil.copyfile(trained["gguf"] / "model-F16.gguf", taught / "base-F16.gguf")
    adapter, counts = _trained(taught, tmp_path / "train", distill=0.5, epochs=30)

    assert counts["distilled_tokens"] > 0
    assert _failed(_export(tmp_path, taught, adapter), tmp_path / "work") == set()


@pytest.mark.parametrize("family", EXPERT_CONFIGS)
def test_files_of_a_base_with_experts_pass_every_gate(tmp_path, family):
    base = make_tiny_base(tmp_path / "base", family)
    experts = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    adapter, _ = _trained(
        base, tmp_path / "train", target_modules=targets, target_parameters=experts, epochs=60
    )
    made = _export(tmp_path, base, adapter, imatrix_tokens=64)

    assert _failed(made, tmp_path / "work") == set()
    assert _passed(tmp_path / "work") == {
        "adapter_model.safetensors",
        "model.safetensors",
        "model-F16.gguf",
        "model-Q8_0.gguf",
    }


def test_another_template_is_found(trained, copied, tmp_path):
    other = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    rewrite_gguf(
        trained["gguf"] / "model-Q8_0.gguf",
        copied / "model-Q8_0.gguf",
        keys={"tokenizer.chat_template": other},
    )

    assert _failed(trained, tmp_path / "work", copied) == {("same_chat_template", "model-Q8_0.gguf")}


def test_rows_in_the_wrong_order_are_found(trained, copied, tmp_path):
    def permute(name, values):
        return interleave(values, 4) if "attn_q" in name else values

    rewrite_gguf(trained["gguf"] / "model-F16.gguf", copied / "model-F16.gguf", change_tensor=permute)

    assert ("top5_difference", "model-F16.gguf") in _failed(trained, tmp_path / "work", copied)
    assert _passed(tmp_path / "work") == {"adapter_model.safetensors", "model.safetensors"}


def test_a_faithful_copy_of_a_faulty_file_does_not_pass(trained, copied, tmp_path):
    from factory.weights.quantizer import quantize_file

    shutil.copyfile(trained["base"] / "base-F16.gguf", copied / "model-F16.gguf")
    quantize_file(copied / "model-F16.gguf", copied / "model-Q8_0.gguf", "Q8_0", None, 1)
    failed = _failed(trained, tmp_path / "work", copied)

    assert {("kl_divergence", "model-Q8_0.gguf"), ("same_top_token", "model-Q8_0.gguf")}.isdisjoint(failed)
    assert "model-Q8_0.gguf" not in _passed(tmp_path / "work")


def test_an_adapter_that_was_not_applied_is_found(trained, copied, tmp_path):
    shutil.copyfile(trained["base"] / "base-F16.gguf", copied / "model-F16.gguf")

    assert ("top5_difference", "model-F16.gguf") in _failed(trained, tmp_path / "work", copied)
    merged = shutil.copytree(trained["merged"], tmp_path / "merged")
    shutil.copyfile(trained["base"] / "model.safetensors", merged / "model.safetensors")
    assert _failed(trained, tmp_path / "work", merged=merged) == {("top5_difference", "model.safetensors")}
    assert _passed(tmp_path / "work") == {"adapter_model.safetensors"}, "all others were made from it"


@pytest.mark.parametrize("factor", [0.5, 2**0.5, 1.1])
def test_a_wrong_scale_is_found(trained, copied, tmp_path, factor):
    alpha = {"adapter.lora.alpha": 16.0 * factor}
    rewrite_gguf(trained["gguf"] / "adapter.gguf", copied / "adapter.gguf", keys=alpha)

    assert _failed(trained, tmp_path / "work", copied) == {("top5_difference", "adapter.gguf")}


def test_a_model_that_never_ends_its_turn_is_found(base, tmp_path):
    random = _export(tmp_path / "random", base, make_tiny_adapter(base, tmp_path / "adapter"))

    assert _failed(random, tmp_path / "work") == {
        ("ends_by_itself", "model-F16.gguf"),
        ("ends_by_itself", "model-Q8_0.gguf"),
    }


def test_other_token_ids_are_found(trained, copied, tmp_path):
    from gguf import GGUFReader

    source = trained["gguf"] / "model-Q8_0.gguf"
    merges = GGUFReader(source).get_field("tokenizer.ggml.merges").contents()
    rewrite_gguf(source, copied / "model-Q8_0.gguf", keys={"tokenizer.ggml.merges": merges[:20]})

    assert _failed(trained, tmp_path / "work", copied) == {("equal_token_ids", "model-Q8_0.gguf")}


def test_damaged_weights_are_found(trained, copied, tmp_path):
    def swap(name, values):
        return np.ascontiguousarray(values[::-1]) if name == "blk.0.ffn_down.weight" else values

    rewrite_gguf(trained["gguf"] / "model-Q8_0.gguf", copied / "model-Q8_0.gguf", change_tensor=swap)

    assert {
        ("kl_divergence", "model-Q8_0.gguf"),
        ("same_top_token", "model-Q8_0.gguf"),
    } <= _failed(trained, tmp_path / "work", copied)


def test_files_that_do_not_open_fail_a_gate_of_their_own(trained, copied, tmp_path):
    for name in ("model-Q8_0.gguf", "adapter.gguf"):
        (copied / name).write_bytes((copied / name).read_bytes()[:5000])

    assert _failed(trained, tmp_path / "work", copied) == {
        ("opens", "model-Q8_0.gguf"),
        ("opens", "adapter.gguf"),
    }
    assert store.read_json(tmp_path / "work" / "files.json")["model-Q8_0.gguf"] is False


def test_an_adapter_without_effect_is_found(trained, tmp_path):
    weak = make_tiny_adapter(trained["base"], tmp_path / "adapter", strength=0)

    assert ("adapter_moves_logits", "adapter_model.safetensors") in _failed(
        trained, tmp_path / "work", adapter=weak
    )
    assert _passed(tmp_path / "work") == set()


def test_what_cannot_be_measured_is_an_error(trained, copied, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluateError, match="no conversation"):
        _failed(trained, tmp_path / "work", dataset=tmp_path / "empty")
    (copied / "model-F16.gguf").write_bytes(b"GGUF")
    with pytest.raises(EvaluateError, match="without the F16 file"):
        _failed(trained, tmp_path / "work", copied)
    (copied / "model-F16.gguf").unlink()
    with pytest.raises(EvaluateError, match="run quantize first"):
        _failed(trained, tmp_path / "work", copied)
