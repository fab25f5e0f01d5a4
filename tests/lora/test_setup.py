"""What decides memory, read off modules: an outline without weights says the same as the model that is trained."""

from dataclasses import replace

import pytest
import torch
import transformers

from factory.errors import BaseModelError, TrainError
from factory.lora import distributed
from factory.lora.adapter import new_adapter, save_adapter, settings_of
from factory.lora.attach import load_model
from factory.lora.config import TrainConfig
from factory.lora.engine import FusedEngine, open_engine
from factory.lora.setup import outline, setup_of
from tests.lora.conftest import TARGETS
from tests.tiny import CONFIGS, TINY_NAME, make_tiny_base


def read(base, dtype=torch.float32, device="cpu", continued=None, **fields):
    """Return the setup of an outline."""
    config = TrainConfig(**{"rank": 4} | fields)
    return setup_of(outline(base, config, continued), config, device, dtype)


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"first_layer": 1}, {"layers": (0,)}, {"dropout": 0.1}, {"variant": "dora"}, {"checkpointing": True},
        {"compile": True}, {"rank_pattern": {"q_proj": 16}}, {"target_modules": ("q_proj", "down_proj")},
        {"init": "pissa"},
    ],
    ids=lambda fields: " ".join(fields) or "plain",
)  # fmt: skip
def test_an_outline_says_what_the_opened_model_says(base, fields):
    config = TrainConfig(rank=4, **fields)
    model = load_model(base, torch.float32, "cpu")
    settings = replace(settings_of(config, 2), init="default")  # PiSSA gives modules of the same sizes
    model = new_adapter(model, settings)
    opened = setup_of(model, config, "cpu", torch.float32)
    assert read(base, **fields) == opened
    assert opened.trained == sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert opened.shape.parameters == sum(
        value.numel() for name, value in model.named_parameters() if "lora_" not in name
    )
    engine = open_engine(
        model, opened.first_layer, torch.float32, "cpu", 2, checkpointing=config.checkpointing
    )
    if not config.compile:
        assert isinstance(engine, FusedEngine) == opened.fused


def test_every_choice_of_the_recipe_counts(base):
    plain = read(base)
    width, inner, layers = 64, 128, 2
    assert plain.ranks == layers * 4 * len(TARGETS)
    assert plain.inputs == layers * (2 * width + inner), "what is read together is kept once"
    assert plain.directions == layers * (3 * width * width // 2 + inner * inner // 2), "o_proj has some, too"
    assert read(base, whiten=False).directions == 0
    put_out = 3 * width * width // 2 + 2 * 32 * 32 // 2 + 2 * inner * inner // 2
    assert plain.retained == plain.directions + layers * put_out, "of what modules read and put out"
    assert read(base, retain=0).retained == 0
    assert read(base, dtype=torch.bfloat16).inputs == layers * (6 * width + inner), (
        "each has a copy of its own"
    )
    assert read(base, dropout=0.1).inputs == layers * (6 * width + inner)
    assert read(base, rank_pattern={"q_proj": 16}).ranks == plain.ranks + layers * 12
    assert read(base, variant="dora").results == 2 * layers * (2 * width + 2 * 32 + 2 * inner + width)
    one = read(base, layers=(1,))
    assert (one.first_layer, one.layers, one.trained, one.ranks) == (
        1,
        1,
        plain.trained // 2,
        plain.ranks // 2,
    )
    fused = {name: read(base, **{name: value}).fused for name, value in {
        "rank": 8, "dropout": 0.1, "variant": "dora", "checkpointing": True, "compile": True, "quantization": "nf4",
    }.items()}  # fmt: skip
    assert [name for name, is_so in fused.items() if is_so] == ["rank"]
    assert not read(base, device="cuda").fused
    assert (plain.processes, plain.init, read(base, init="pissa").init) == (1, "default", "pissa")


def test_spread_weights_are_counted_by_process(base, monkeypatch):
    monkeypatch.setattr(distributed, "num_processes", lambda: 4)
    assert (read(base).processes, read(base).fused) == (1, True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert (read(base).processes, read(base).fused) == (4, False)


def test_what_waits_in_main_memory_is_no_part_of_a_gpus(base, monkeypatch):
    for device, waits in (("cuda", True), ("cpu", False)):
        found = read(base, checkpointing="offload", device=device)
        assert (found.checkpointing, found.offloaded, found.shares_offloaded) == (True, waits, False)
    assert not read(base, checkpointing=True, device="cuda").offloaded
    monkeypatch.setattr(distributed, "num_processes", lambda: 4)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    assert read(base, device="cuda").shares_offloaded


def test_a_saved_adapter_is_outlined_in_its_own_shape(base, new_model, tmp_path):
    model = new_model(first_layer=1, rank=6)
    save_adapter(model, tmp_path, TINY_NAME)
    found = read(base, continued=tmp_path, rank=32)
    assert (found.first_layer, found.ranks) == (1, 6 * len(TARGETS))
    assert found == setup_of(model, TrainConfig(), "cpu", torch.float32)


def test_experts_weights_are_rebuilt_in_every_step(tmp_path):
    config = transformers.MixtralConfig(
        hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        num_local_experts=4, num_experts_per_tok=2, vocab_size=320,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    found = read(tmp_path, target_modules=("q_proj",), target_parameters=("mlp.experts.down_proj",))
    assert (found.rebuilt, found.ranks, found.shape.inner) == (2 * 4 * 64 * 32, 2 * 4, 2 * 32)
    assert found.shape.parameters > found.shape.layer_parameters + 2 * 320 * 64, (
        "two experts of four see a token"
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_the_engine_that_runs_is_told_without_weights(tmp_path, family):
    base = make_tiny_base(tmp_path / family, family=family)
    found = read(base)
    assert (found.fused, found.head_norms) == (True, family == "qwen3")


def test_what_does_not_fit_the_base_is_said(base):
    with pytest.raises(BaseModelError, match="no_such_proj"):
        read(base, target_modules=("no_such_proj",))
    with pytest.raises(TrainError, match="names layer 7"):
        read(base, layers=(7,))
