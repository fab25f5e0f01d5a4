"""Which gates a judge notes for which file, with which limits, and what an unreadable file does to the others."""

import logging
import shutil

import numpy as np
import pytest

from factory.errors import EvaluateError
from factory.stages.verify import VerifyConfig
from factory.weights.equivalence import Sizes, gather
from factory.weights.file_judge import FileJudge
from tests.tiny import make_tiny_adapter, make_tiny_dataset, rewrite_gguf

SIZES = Sizes(prompts=2, compared_tokens=60, scored_tokens=40, text_lines=5, answer_tokens=8)
LIMITS = VerifyConfig(
    max_merged_difference=0.03, max_f16_difference=0.04, max_adapter_difference=0.05, min_adapter_effect=0.02,
    max_divergence_8bit=0.01, max_divergence_4bit=0.2, min_same_top_8bit=0.9, min_same_top_4bit=0.8, min_ended=0.7,
)  # fmt: skip


@pytest.fixture(scope="module")
def probe(tiny_base, tmp_path_factory):
    return gather(tiny_base, make_tiny_dataset(tmp_path_factory.mktemp("dataset")), "", SIZES)


@pytest.fixture
def judge(probe):
    return FileJudge(probe, LIMITS, threads=1)


@pytest.fixture(scope="module")
def nothing(tiny_base, tmp_path_factory):
    """An adapter of zeros: the base itself is its merged model."""
    return make_tiny_adapter(tiny_base, tmp_path_factory.mktemp("nothing"), strength=0)


@pytest.fixture
def f16(tiny_base, tmp_path):
    return shutil.copy(tiny_base / "base-F16.gguf", tmp_path / "model-F16.gguf")


def noted(judge, subject):
    """Return the gates of a file by name."""
    return {gate.name: gate for gate in judge.gates.gates if gate.subject == subject}


def test_weights_that_were_not_merged_fail_by_what_the_adapter_moves(judge, tiny_base, tiny_adapter):
    judge.judge_weights(tiny_base, tiny_adapter, tiny_base)
    adapter, merged = judge.gates.gates
    assert (adapter.name, adapter.subject) == ("adapter_moves_logits", "adapter_model.safetensors")
    assert (merged.name, merged.subject) == ("top5_difference", "model.safetensors")
    assert (adapter.limit, merged.limit) == (0.02, 0.03)
    assert (adapter.passed, merged.passed) == (True, False)
    assert 0.03 < merged.value < adapter.value, "a mean over five tokens is less than the largest of all"


def test_a_merged_model_rests_on_its_adapter_however_equal_to_it(judge, tiny_base, nothing):
    judge.judge_weights(tiny_base, nothing, tiny_base)
    adapter, merged = judge.gates.gates
    assert (adapter.value, adapter.passed) == (0, False)
    assert (merged.value, merged.passed) == (pytest.approx(0, abs=1e-4), True)
    assert judge.gates.files() == {"adapter_model.safetensors": False, "model.safetensors": False}


def test_the_f16_file_is_measured_in_five_ways(judge, tiny_base, nothing, f16):
    judge.judge_weights(tiny_base, nothing, tiny_base)
    judge.judge_f16(f16)
    gates = noted(judge, "model-F16.gguf")
    assert {name: gate.limit for name, gate in gates.items()} == {
        "top5_difference": 0.04, "equal_token_ids": 1, "same_chat_template": 1, "doubled_bos": 0, "ends_by_itself": 0.7,
    }  # fmt: skip
    assert gates["top5_difference"].value < 0.04
    assert [gates[name].value for name in ("equal_token_ids", "same_chat_template", "doubled_bos")] == [
        1,
        1,
        0,
    ]


def test_only_the_8_bit_file_is_held_to_the_8_bit_limits(judge, tiny_base, nothing, f16, tmp_path):
    judge.judge_weights(tiny_base, nothing, tiny_base)
    judge.judge_f16(f16)
    for name, limits in (("model-Q8_0.gguf", (0.01, 0.9)), ("model-Q4_K_M.gguf", (0.2, 0.8))):
        judge.judge_quantized(shutil.copy(f16, tmp_path / name))
        gates = noted(judge, name)
        assert (gates["kl_divergence"].limit, gates["same_top_token"].limit) == limits
        assert gates["kl_divergence"].value == pytest.approx(0, abs=1e-4)
        assert gates["same_top_token"].value == 1
        assert judge.gates.rests_on[name] == "model-F16.gguf"


def test_a_file_with_other_numbers_diverges_and_says_other_tokens(judge, tiny_base, nothing, f16, tmp_path):
    def turn(name, values):
        return np.ascontiguousarray(values[::-1]) if name == "blk.1.ffn_down.weight" else values

    judge.judge_weights(tiny_base, nothing, tiny_base)
    judge.judge_f16(f16)
    judge.judge_quantized(rewrite_gguf(f16, tmp_path / "model-Q8_0.gguf", change_tensor=turn))
    gates = noted(judge, "model-Q8_0.gguf")
    assert gates["kl_divergence"].value > 0.01
    assert gates["same_top_token"].value < 0.9
    assert not gates["kl_divergence"].passed
    assert not gates["same_top_token"].passed
    assert gates["equal_token_ids"].passed


def test_a_file_that_does_not_open_fails_that_gate_alone_and_is_logged(
    judge, tiny_base, nothing, f16, tmp_path, caplog
):
    judge.judge_weights(tiny_base, nothing, tiny_base)
    judge.judge_f16(f16)
    for name in ("adapter.gguf", "model-Q8_0.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with caplog.at_level(logging.WARNING, "factory.weights.file_judge"):
        judge.judge_adapter_file(tiny_base, tmp_path / "adapter.gguf")
        judge.judge_quantized(tmp_path / "model-Q8_0.gguf")
    for name, message in zip(("adapter.gguf", "model-Q8_0.gguf"), caplog.messages, strict=True):
        (gate,) = noted(judge, name).values()
        assert (gate.name, gate.value, gate.limit, gate.passed) == ("opens", 0, 1, False)
        assert name in message


def test_without_the_f16_file_nothing_can_be_judged(judge, tiny_base, nothing, tmp_path):
    judge.judge_weights(tiny_base, nothing, tiny_base)
    (tmp_path / "model-F16.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        EvaluateError, match=r"^Nothing can be verified without the F16 file: .*model-F16\.gguf"
    ):
        judge.judge_f16(tmp_path / "model-F16.gguf")
    assert noted(judge, "model-F16.gguf") == {}
