"""Predicted memory: what autograd keeps, near what a step takes and others published, growing with what needs it."""

import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.lora import attach, engine, memory
from factory.lora.adapter import new_adapter, settings_of
from factory.lora.batches import IGNORED, EncodedRow
from factory.lora.config import TrainConfig
from factory.lora.memory import Below, Load, Setup
from factory.lora.setup import setup_of
from factory.lora.shape import Shape
from tests.lora.conftest import TARGETS
from tests.lora.shapes import (
    LLAMA_1B,
    LLAMA_3B,
    LLAMA_8B,
    QWEN_1B,
    SMOLLM2,
    adapters,
    dense,
    loads,
    lora,
    setups,
    shapes,
)

GB, GIB = 10**9, 1 << 30
SIZES = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 160, "vocab_size": 320,
}  # fmt: skip


class Kept:
    """A tensor that is saved for the backward pass, for as long as it is."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def kept_by_autograd(model: Any, running: Any, below: Any, rows: list[EncodedRow]) -> int:
    """Return the bytes that a forward pass keeps besides weights."""
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: weakref.WeakSet[Kept] = weakref.WeakSet()

    def pack(tensor: torch.Tensor) -> Kept:
        held = Kept(tensor)
        kept.add(held)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        loss = running.token_losses(rows, below).sum()
    storages = {held.tensor.untyped_storage().data_ptr(): held.tensor.untyped_storage() for held in kept}
    assert loss.requires_grad
    return sum(storage.nbytes() for place, storage in storages.items() if place not in own)


def measure_kept(
    config: TrainConfig, dtype: torch.dtype, tokens: int, base: type = transformers.LlamaConfig, **sizes: Any
) -> tuple[Setup, float, float]:
    """Return the setup of a small model, and what it keeps of a token and whatever the number of rows."""
    attach.seed_everything(1)
    model = transformers.AutoModelForCausalLM.from_config(base(**SIZES | sizes), dtype=dtype)
    model = new_adapter(model, settings_of(config, SIZES["num_hidden_layers"]))
    setup = setup_of(model, config, "cpu", dtype)
    asked = {"checkpointing": config.checkpointing, "compiled": config.compile}
    running = engine.open_engine(model, setup.first_layer, dtype, "cpu", 2, **asked)
    assert isinstance(running, engine.FusedEngine) == setup.fused
    kept = []
    for number in (2, 4):  # rows of two lengths, as most are: then they are padded
        lengths = [tokens - row % 2 for row in range(number)]
        rows = [
            EncodedRow((row + 3, *range(6, size + 5)), (*[IGNORED] * (size - 2), 7, 8), "")
            for row, size in enumerate(lengths)
        ]
        running.refresh()
        below = running.lower(rows) if setup.first_layer else None
        kept.append(kept_by_autograd(model, running, below, rows))
    return setup, (kept[1] - kept[0]) / (2 * tokens), 2 * kept[0] - kept[1]


PLAIN = {"compile": True}  # which is lazy: nothing is compiled before it is computed
BF16 = torch.bfloat16


@pytest.mark.parametrize(
    ("fields", "dtype", "tokens"),
    [
        ({}, torch.float32, 48), ({}, BF16, 48), ({}, torch.float32, 300), ({}, BF16, 300),
        ({"layers": (1, 3)}, torch.float32, 48), ({"rank_pattern": {"q_proj": 64}}, torch.float32, 48),
        (PLAIN, torch.float32, 48), (PLAIN, BF16, 48), (PLAIN, torch.float32, 200),
        (PLAIN | {"target_modules": ("q_proj", "v_proj")}, torch.float32, 48),
        (PLAIN | {"target_modules": ("q_proj", "v_proj")}, BF16, 48),
        (PLAIN | {"layers": (1, 3)}, torch.float32, 48), (PLAIN | {"rank_pattern": {"q_proj": 64}}, BF16, 48),
        ({"dropout": 0.1}, torch.float32, 48), ({"dropout": 0.1}, BF16, 48),
        ({"variant": "dora"}, torch.float32, 48), ({"variant": "dora"}, BF16, 48),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_kept_of_a_token_is_what_autograd_keeps(fields, dtype, tokens, monkeypatch):
    monkeypatch.setattr(engine.kernels, "compile_layers", lambda model: None)
    setup, found, _ = measure_kept(TrainConfig(rank=8, **fields), dtype, tokens)
    assert memory.kept_bytes(setup, tokens) == pytest.approx(found, rel=0.06)


@pytest.mark.parametrize(("fields", "tokens"), [({}, 48), ({}, 300), (PLAIN, 48)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_norms_of_queries_and_keys_keep_what_they_read(fields, tokens, dtype, monkeypatch):
    monkeypatch.setattr(engine.kernels, "compile_layers", lambda model: None)
    config = TrainConfig(rank=8, **fields)
    setup, found, _ = measure_kept(config, dtype, tokens, transformers.Qwen3Config, head_dim=32)
    assert (setup.head_norms, setup.fused) == (True, not fields)
    assert memory.kept_bytes(setup, tokens) == pytest.approx(found, rel=0.06)
    assert memory.kept_bytes(replace(setup, head_norms=False), tokens) < 0.95 * found


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_of_layers_computed_twice_one_hidden_state_each_is_kept_and_one_layers_activations(dtype):
    setup, found, _ = measure_kept(TrainConfig(rank=8, checkpointing=True), dtype, 48)
    whole = memory.kept_bytes(replace(setup, checkpointing=False), 48)
    last_norm = 4 * setup.shape.width
    assert found - last_norm == pytest.approx(4 * dtype.itemsize * setup.shape.width, rel=0.06)
    assert memory.kept_bytes(setup, 48) == 4 * dtype.itemsize * setup.shape.width + whole / 4
    step, twice = (
        memory.train_step(one, Load(48, 8), 8) for one in (replace(setup, checkpointing=False), setup)
    )
    assert twice.activations < 0.7 * step.activations
    assert replace(twice, activations=0, reserve=0) == replace(step, activations=0, reserve=0)


def test_what_is_offloaded_is_not_counted_but_for_the_layer_that_is_computed():
    on_gpu = lora(LLAMA_8B, 8, dtype_bytes=2, checkpointing=True, cuda=True)
    away = replace(on_gpu, offloaded=True)
    layers, entering = LLAMA_8B.layers, 2 * LLAMA_8B.width
    less = memory.kept_bytes(on_gpu, 512) - memory.kept_bytes(away, 512)
    assert less == pytest.approx((layers - 1) * entering)
    spread = replace(on_gpu, processes=4)
    weights = [
        memory.train_step(one, Load(512, 64), 1).weights
        for one in (spread, replace(spread, shares_offloaded=True))
    ]
    assert weights[0] - weights[1] == pytest.approx(2 * LLAMA_8B.layer_parameters / 4)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_rebuilt_experts_are_kept_whole_whatever_the_rows(dtype):
    config = TrainConfig(rank=2, target_modules=("q_proj",), target_parameters=("mlp.experts.gate_up_proj",))
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
    setup, _, always = measure_kept(config, dtype, 48, transformers.MixtralConfig, **experts)
    assert setup.rebuilt == 4 * 8 * 64 * 320
    assert always == pytest.approx(setup.rebuilt * dtype.itemsize, rel=0.1)
    without = memory.train_step(replace(setup, rebuilt=0), Load(48, 8), 2)
    added = memory.train_step(setup, Load(48, 8), 2).activations - without.activations
    assert added == setup.rebuilt * dtype.itemsize


def test_spread_weights_are_shared_by_the_processes_but_for_two_layers():
    whole = lora(LLAMA_8B, 16, dtype_bytes=2, cuda=True)
    weights = {n: memory.train_step(replace(whole, processes=n), Load(8, 2), 1).weights for n in (1, 4, 8)}
    layers = 2 * LLAMA_8B.layer_parameters
    assert weights[1] == 2 * LLAMA_8B.parameters
    assert weights[4] - weights[8] == pytest.approx(layers / 8)
    assert weights[4] == pytest.approx(2 * LLAMA_8B.outer_parameters + layers * (1 / 4 + 2 / 32))


def test_pairs_are_two_rows_each_and_leave_nothing_of_the_frozen_layers():
    rows = [EncodedRow(tuple(range(size)), (*[IGNORED] * 5, *range(size - 5)), "") for size in (20, 30)]
    load = memory.load_of(rows[:1], rows[1:])
    assert load == Load(30, 25, together=2)
    assert memory.load_of(rows) == Load(30, 25, kept_tokens=50)
    setup = lora(SMOLLM2, 8)
    one, both = memory.train_step(setup, load, 3), memory.train_step(setup, replace(load, together=1), 6)
    assert one == both


def test_a_beginning_that_stands_for_a_part_of_the_base_is_kept_and_pissa_takes_float32_for_it():
    plain = lora(SMOLLM2, 8, dtype_bytes=2)
    state = {init: memory.train_step(replace(plain, init=init), Load(8, 2), 1).adapter
             for init in ("default", "eva", "pissa", "loftq")}  # fmt: skip
    assert state["default"] == state["eva"] == state["pissa"] - 4 * plain.trained
    assert state["loftq"] == state["pissa"]
    assert memory.opening(plain).weights == 2 * SMOLLM2.parameters
    assert memory.opening(replace(plain, init="pissa")).weights == 4 * SMOLLM2.parameters


# One step, or one batch of answers, in a process of its own: what it adds to the libraries.
MEASURE = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import psutil, torch, transformers
torch.set_num_threads(1)
from factory.lora import attach, greedy
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
        greedy.greedy(model.eval(), [list(range(5, 5 + tokens))] * rows, max_tokens=8, stop_ids={1}, pad_id=2,
                    device="cpu", batch_size=rows)
        return
    engine = open_engine(model, first_layer, dtype, "cpu", 2, checkpointing=wanted["checkpointing"])
    assert isinstance(engine, FusedEngine) == wanted["fused"]
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], fused=True)
    size, labels, shared = wanted["tokens"], wanted["labels"], wanted["shared"]
    rows = [EncodedRow((*range(7, shared + 7), row + 5, *range(6, size - shared + 5)),
                       (*[-100] * (size - labels), *range(5, labels + 5)), "")
            for row in range(wanted["rows"])]
    for _ in range(2):
        engine.refresh()
        engine.token_losses(rows, engine.lower(rows) if first_layer else None).sum().backward()
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
    shape: Shape, step: dict[str, Any], load: Load, rows: int, answers: tuple[int, int] | None = None
) -> int:
    """Return the bytes that a step, or some answers, added to a process at their peak."""
    config = {
        "num_hidden_layers": shape.layers, "hidden_size": shape.width, "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads * shape.keys // shape.queries,
        "head_dim": shape.queries // shape.heads, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    dropout = step.get("dropout", False)
    wanted = {
        "config": config, "dtype": "float32" if step.get("dtype_bytes", 4) == 4 else "bfloat16",
        "rank": step["rank"], "targets": TARGETS, "first_layer": step.get("first_layer", 0),
        "dropout": 0.1 if dropout else 0.0, "fused": not dropout and not step.get("checkpointing", False),
        "checkpointing": step.get("checkpointing", False), "tokens": load.tokens, "labels": load.labels, "rows": rows,
        "answers": answers, "shared": load.below.shared if load.below else 0,
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


DEEP = dense(8, 128, 512, 4, 128, 128, 1024)
WIDE_VOCABULARY = dense(2, 128, 256, 4, 128, 64, 60_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "step", "load", "rows"),
    [
        (DEEP, {"rank": 8}, Load(128, 32), 16),
        (DEEP, {"rank": 8}, Load(400, 100), 6),
        (DEEP, {"rank": 128}, Load(64, 16), 16),
        (DEEP, {"rank": 8}, Load(240, 8, below=Below(200, 40, 0)), 24),
        (DEEP, {"rank": 8}, Load(360, 8, below=Below(320, 40, 0)), 24),
        (DEEP, {"rank": 8, "first_layer": 4, "dtype_bytes": 2}, Load(128, 32), 32),
        (DEEP, {"rank": 8, "dropout": True}, Load(128, 32), 16),
        (DEEP, {"rank": 8, "checkpointing": True}, Load(128, 32), 64),
        (WIDE_VOCABULARY, {"rank": 8, "dropout": True}, Load(64, 48), 6),
        (WIDE_VOCABULARY, {"rank": 8}, Load(64, 48), 8),
    ],
    ids=["short rows", "long rows", "a large rank", "below a passage", "below long passages",
         "half the layers in 16 bits", "plain layers",
         "layers computed twice", "plain logits", "logits in parts"],
)  # fmt: skip
def test_a_step_takes_what_is_predicted(shape, step, load, rows):
    assert predicted(memory.train_step(lora(shape, **step), load, rows)) == pytest.approx(
        measured(shape, step, load, rows), rel=0.25
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "tokens"), [(DEEP, 512), (WIDE_VOCABULARY, 100)], ids=["long prompts", "short prompts"]
)
def test_answers_take_what_is_predicted(shape, tokens):
    took = measured(shape, {"rank": 8}, Load(8, 2), 1, answers=(memory.prompts_at_once(tokens), tokens))
    assert predicted(memory.answer_step(lora(shape, 8), tokens, 8)) == pytest.approx(took, rel=0.25)


@settings(deadline=None)  # a busy machine is no fault
@given(setups, loads, st.integers(1, 64))
def test_training_needs_no_less_for_more_or_longer_rows(setup, load, rows):
    needed = memory.train_step(setup, load, rows).total
    assert needed > 0
    assert memory.train_step(setup, load, rows + 1).total > needed
    assert memory.train_step(setup, replace(load, tokens=load.tokens + 1), rows).total >= needed
    assert memory.train_step(setup, replace(load, labels=load.labels + 1), rows).total >= needed
    assert memory.train_step(setup, replace(load, together=load.together + 1), rows).total > needed


@settings(deadline=None)
@given(shapes, adapters, st.integers(1, 256), loads)
def test_a_larger_rank_needs_more_and_layers_computed_twice_no_more(shape, others, rank, load):
    one, other = (memory.train_step(lora(shape, rank + more, **others), load, 4).total for more in (0, 1))
    assert other > one
    kept, twice = (
        memory.kept_bytes(
            replace(
                lora(shape, rank, **others | {"first_layer": 0}), fused=False, checkpointing=checkpointing
            ),
            load.tokens,
        )
        for checkpointing in (False, True)
    )
    assert twice <= kept


def test_the_quickstarts_base_needs_what_its_training_took():
    """5.1 GiB at its peak, on two cores in bf16 at rank 32 (the constant of a long run comes from there)."""
    peak = memory.train_step(lora(SMOLLM2, 32, dtype_bytes=2), Load(72, 24), 8).total
    assert 3 * GIB < peak < 6 * GIB


def _below(context: str, shared: int, own: int) -> EncodedRow:
    ids = (*range(shared), *range(500 + own, 500 + 2 * own))
    return EncodedRow(ids, (*[IGNORED] * (len(ids) - 2), *ids[-2:]), "", context=context)


def test_what_stands_above_several_rows_counts_once_where_the_engine_computes_it_once():
    alone = EncodedRow(tuple(range(50)), (*[IGNORED] * 47, 1, 2, 3), "")
    rows = [alone, _below("a", 200, 20), _below("a", 200, 30), _below("b", 150, 35), _below("b", 150, 12)]
    load = memory.load_of(rows)
    assert load == Load(230, 3, sum(len(row.ids) for row in rows), below=Below(200, 35, 50))
    setup = lora(SMOLLM2, 8, dtype_bytes=2)
    fused, plain = setup, replace(setup, fused=False)
    apart = replace(load, below=None)
    assert memory.train_step(plain, load, 16) == memory.train_step(plain, apart, 16)
    needed = {rows: memory.train_step(fused, load, rows).activations for rows in (1, 8, 16)}
    assert needed[16] < 0.5 * memory.train_step(fused, apart, 16).activations
    assert needed[1] < needed[8] < needed[16]
    assert needed[16] > memory.train_step(fused, Load(50, 3), 16).activations
    assert memory.largest_rows(fused, load, 16) == (235, 200)
    assert memory.largest_rows(fused, replace(load, below=Below(200, 35, 100)), 16) == (100, 0)
    assert memory.largest_rows(plain, load, 16) == (230, 0)


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
    setup = lora(shape, 32, dtype_bytes=2, quantization="nf4" if quantized else "none", cuda=True)
    step = memory.train_step(setup, Load(512, 512), rows)
    whole_logits = 3 * 4 * rows * 512 * shape.vocabulary  # which litgpt keeps, in 16 and 32 bits
    assert predicted(replace(step, logits=whole_logits)) == pytest.approx(published * GB, rel=0.25)


@pytest.mark.parametrize(("quantized", "published"), [(False, 16.2), (True, 7.4)])
def test_weights_and_optimizer_are_most_of_what_torchtune_published(quantized, published):
    """LoRA and QLoRA of Llama 3.1 8B on an RTX 4090, packed rows of 2048 with recomputed activations, in GiB.

    Source: pytorch/torchtune, README.md (memory and training speed).
    """
    setup = lora(
        LLAMA_8B, 8, dtype_bytes=2, quantization="nf4" if quantized else "none", checkpointing=True, cuda=True
    )
    step = memory.train_step(setup, Load(1, 1), 1)
    assert 0.7 * published < predicted(step) / GIB < published


def test_a_gpu_answers_in_16_bits_and_a_cpu_in_32():
    trained = lora(QWEN_1B, 16, dtype_bytes=2, quantization="nf4", cuda=True)
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
