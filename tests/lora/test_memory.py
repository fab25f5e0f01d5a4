"""Predicted memory: near what a step takes and what others published, growing with what needs it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.lora import memory
from factory.lora.memory import Load, Setup
from factory.lora.shape import Shape
from tests.lora.conftest import TARGETS
from tests.lora.shapes import LLAMA_1B, LLAMA_3B, LLAMA_8B, QWEN_1B, SMOLLM2, loads, setups

GB, GIB = 10**9, 1 << 30

# One step, or one batch of answers, in a process of its own: what it adds to the libraries.
MEASURE = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import psutil, torch, transformers
torch.set_num_threads(1)
from factory.lora import attach, step
from factory.lora.adapter import AdapterSettings, new_adapter
from factory.lora.batches import EncodedRow
from factory.lora.engine import FusedEngine, open_engine

def new_model(wanted, dtype):
    config = transformers.LlamaConfig(**wanted["config"], tie_word_embeddings=True, max_position_embeddings=2048)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device="cpu")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.normal_(std=0.02)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.get_output_embeddings().register_forward_pre_hook(attach._make_contiguous)
    layers = tuple(range(wanted["first_layer"], config.num_hidden_layers))
    settings = AdapterSettings(wanted["rank"], 8.0, tuple(wanted["targets"]), wanted["dropout"], layers)
    return new_adapter(model, settings)

def run(wanted):
    dtype, first_layer = getattr(torch, wanted["dtype"]), wanted["first_layer"]
    model = new_model(wanted, dtype)
    if wanted["answers"]:
        rows, tokens = wanted["answers"]
        step.greedy(model.eval(), [list(range(5, 5 + tokens))] * rows, max_tokens=8, stop_id=1, pad_id=2,
                    device="cpu", batch_size=rows)
        return
    engine = open_engine(model, first_layer, dtype, "cpu", 2)
    assert isinstance(engine, FusedEngine) == wanted["fused"]
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], fused=True)
    size, labels = wanted["tokens"], wanted["labels"]
    rows = [EncodedRow((row + 5, *range(6, size + 5)), (*[-100] * (size - labels), *range(5, labels + 5)), "")
            for row in range(wanted["rows"])]
    for _ in range(2):
        engine.refresh()
        engine.loss(rows, engine.lower(rows) if first_layer else None).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

wanted = json.loads(sys.argv[1])
small = {"hidden_size": 32, "num_hidden_layers": wanted["first_layer"] + 1, "intermediate_size": 32, "head_dim": 8,
         "vocab_size": 512}
run(wanted | {"config": wanted["config"] | small, "rows": 2, "rank": 1, "answers": wanted["answers"] and [2, 8]})
before = psutil.Process().memory_info().rss  # the code of the kernels is loaded
run(wanted)
status = open("/proc/self/status").read()  # ru_maxrss would hold what the parent had when it forked
print(int(status.split("VmHWM:")[1].split()[0]) * 1024 - before)
"""


def measured(
    shape: Shape, setup: Setup, load: Load, rows: int, answers: tuple[int, int] | None = None
) -> int:
    """Return the bytes that a step, or some answers, added to a process at their peak."""
    config = {
        "num_hidden_layers": shape.layers, "hidden_size": shape.width, "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads * shape.keys // shape.queries,
        "head_dim": shape.queries // shape.heads, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    wanted = {
        "config": config, "dtype": "float32" if setup.dtype_bytes == 4 else "bfloat16", "rank": setup.rank,
        "targets": setup.targets, "first_layer": setup.first_layer, "dropout": 0.1 if setup.dropout else 0.0,
        "fused": setup.fused, "tokens": load.tokens, "labels": load.labels, "rows": rows, "answers": answers,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(wanted)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # a heap in pieces is not what a step needs
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def predicted(parts: memory.Parts) -> float:
    """Return what a step adds to the libraries, without a reserve."""
    return replace(parts, libraries=0.0, reserve=0.0, long_run=0.0).total


DEEP = Shape(8, 128, 512, 4, 128, 128, 1024, tied=True, llama=True)
WIDE_VOCABULARY = Shape(2, 128, 256, 4, 128, 64, 60_000, tied=True, llama=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setup", "load", "rows"),
    [
        (Setup(DEEP, 8, TARGETS, 0, 4), Load(128, 32), 16),
        (Setup(DEEP, 8, TARGETS, 0, 4), Load(400, 100), 6),
        (Setup(DEEP, 128, TARGETS, 0, 4), Load(64, 16), 16),
        (Setup(DEEP, 8, TARGETS, 4, 2), Load(128, 32), 32),
        (Setup(DEEP, 8, TARGETS, 0, 4, dropout=True), Load(128, 32), 16),
        (Setup(WIDE_VOCABULARY, 8, TARGETS, 0, 4, dropout=True), Load(64, 48), 6),
        (Setup(WIDE_VOCABULARY, 8, TARGETS, 0, 4), Load(64, 48), 8),
    ],
    ids=["short rows", "long rows", "a large rank", "half the layers in 16 bits", "plain layers", "plain logits",
         "logits in parts"],
)  # fmt: skip
def test_a_step_takes_what_is_predicted(setup, load, rows):
    assert predicted(memory.train_step(setup, load, rows)) == pytest.approx(
        measured(setup.shape, setup, load, rows), rel=0.25
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "tokens"), [(DEEP, 512), (WIDE_VOCABULARY, 100)], ids=["long prompts", "short prompts"]
)
def test_answers_take_what_is_predicted(shape, tokens):
    setup = Setup(shape, 8, TARGETS, 0, 4)
    took = measured(shape, setup, Load(8, 2), 1, answers=(memory.prompts_at_once(tokens), tokens))
    assert predicted(memory.answer_step(setup, tokens, 8)) == pytest.approx(took, rel=0.25)


@settings(deadline=None)  # a busy machine is no fault
@given(setups, loads, st.integers(1, 64))
def test_training_needs_no_less_for_more_rows_longer_ones_or_a_larger_rank(setup, load, rows):
    needed = memory.train_step(setup, load, rows).total
    assert needed > 0
    assert memory.train_step(setup, load, rows + 1).total > needed
    assert memory.train_step(setup, replace(load, tokens=load.tokens + 1), rows).total >= needed
    assert memory.train_step(setup, replace(load, labels=load.labels + 1), rows).total >= needed
    assert memory.train_step(replace(setup, rank=setup.rank + 1), load, rows).total > needed


def test_the_quickstarts_base_needs_what_its_training_took():
    """5.1 GiB at its peak, on two cores in bf16 at rank 32 (the constant of a long run comes from there)."""
    peak = memory.train_step(Setup(SMOLLM2, 32, TARGETS, 0, 2), Load(72, 24), 8).total
    assert 3 * GIB < peak < 6 * GIB


@pytest.mark.parametrize(
    ("shape", "quantized", "rows", "published"),
    [
        (LLAMA_1B, False, 1, 4.49), (LLAMA_3B, False, 1, 9.67), (LLAMA_8B, False, 1, 19.7),
        (LLAMA_1B, True, 2, 5.53), (LLAMA_3B, True, 2, 10.30), (LLAMA_8B, True, 2, 17.4),
    ],
)  # fmt: skip
def test_on_a_gpu_steps_take_about_what_litgpt_published(shape, quantized, rows, published):
    """LoRA and QLoRA of Llama 3.1 and 3.2 on an A10G, 512 tokens a row, all of them with loss, in GB.

    Source: Lightning-AI/litgpt, config_hub/finetune/README.md (rank 32, bf16 or NF4; micro-batches of 1 and 2).
    """
    setup = Setup(shape, 32, TARGETS, 0, 2, quantization="nf4" if quantized else "none", cuda=True)
    step = memory.train_step(setup, Load(512, 512), rows)
    whole_logits = 3 * 4 * rows * 512 * shape.vocabulary  # which litgpt keeps, in 16 and 32 bits
    assert predicted(replace(step, logits=whole_logits)) == pytest.approx(published * GB, rel=0.25)


@pytest.mark.parametrize(("quantized", "published"), [(False, 16.2), (True, 7.4)])
def test_weights_and_optimizer_are_most_of_what_torchtune_published(quantized, published):
    """LoRA and QLoRA of Llama 3.1 8B on an RTX 4090, packed rows of 2048 with recomputed activations, in GiB.

    Source: pytorch/torchtune, README.md (memory and training speed).
    """
    setup = Setup(LLAMA_8B, 8, TARGETS, 0, 2, quantization="nf4" if quantized else "none", cuda=True)
    step = memory.train_step(setup, Load(1, 1), 1)
    assert 0.7 * published < predicted(step) / GIB < published


def test_a_gpu_answers_in_16_bits_and_a_cpu_in_32():
    trained = Setup(QWEN_1B, 16, TARGETS, 0, 2, quantization="nf4", cuda=True)
    assert memory.answer_step(trained, 64, 8).weights == 2 * QWEN_1B.parameters
    assert memory.answer_step(replace(trained, cuda=False), 64, 8).weights == 4 * QWEN_1B.parameters


def test_four_bits_take_what_bitsandbytes_keeps():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(1024, 1024), quant_type="nf4", compress_statistics=True
    )
    nested = state.state2
    kept = packed.numel() + state.absmax.numel() + nested.absmax.numel() * 4 + nested.code.numel() * 4
    assert kept / 1024**2 == pytest.approx(memory.QUANTIZED_BYTES["nf4"], rel=0.01)
