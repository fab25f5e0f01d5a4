"""Adapters of every method: what is trainable, and that the saved folder means on the plain base what was trained."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open

from factory.errors import BaseModelError, TrainError
from factory.lora import attach
from factory.lora.adapter import (
    AdapterSettings,
    beginning,
    continue_adapter,
    first_trained_layer,
    new_adapter,
    parameter_groups,
    save_adapter,
    shape,
)
from factory.lora.engine import FusedEngine, PlainEngine
from factory.lora.loop import Loop
from factory.weights import merged
from factory.weights.delta import read_adapter
from tests.lora.conftest import TARGETS
from tests.lora.test_loop import SETTINGS
from tests.tiny import TINY_NAME

IDS = torch.tensor([[1, 40, 50, 60, 70, 2]])
PLAIN = AdapterSettings(rank=4, alpha=8.0, targets=TARGETS)
PATTERNS = {"rank_pattern": {"q_proj": 8, "layers.1.mlp.*": 2}, "alpha_pattern": {"down_proj": 3.0}}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"variant": "rslora"},
    "dora": {"variant": "dora"},
    "pissa": {"init": "pissa"},
    "eva": {"init": "eva"},
    "rank_pattern": PATTERNS,
    "rslora_rank_pattern": PATTERNS | {"variant": "rslora"},
    "pissa_rslora_rank_pattern": PATTERNS | {"init": "pissa", "variant": "rslora"},
    "pissa_dora": {"init": "pissa", "variant": "dora"},
    "layers": {"layers": (1,)},
}


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def plain(base) -> Callable[[], Any]:
    """Return a function that loads the base as anybody would."""
    return lambda: transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


@pytest.fixture
def train(base, encoded, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that trains an adapter for a few steps, saves it, and returns the model and its engine."""

    def go(settings: AdapterSettings = PLAIN, model: Any = None, folder: str = "adapter") -> tuple[Any, Any]:
        attach.seed_everything(3)
        if model is None:
            model = new_adapter(
                attach.load_model(base, torch.float32, "cpu"), settings, base=base, rows=encoded
            )
        begun = beginning(model, settings)
        loop = Loop(
            model,
            first_trained_layer(model),
            encoded,
            replace(SETTINGS, epochs=2),
            tmp_path / f"{folder}-run",
            lambda: 0.0,
            lambda row: None,
        )
        loop.run()
        (tmp_path / folder).mkdir()
        save_adapter(model, tmp_path / folder, TINY_NAME, begun)
        return model, loop._engine

    return go


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_means_on_the_plain_base_what_was_trained(
    train, plain, base, tmp_path: Path, method: str
) -> None:
    model, engine = train(replace(PLAIN, **METHODS[method]))
    trained, before = _logits(model), _logits(plain())
    assert isinstance(engine, PlainEngine if "dora" in method else FusedEngine)
    assert (trained - before).abs().max() > 0.05, "training changed something"
    with attach.quiet_peft():
        loaded = peft.PeftModel.from_pretrained(plain(), tmp_path / "adapter")
    assert (_logits(loaded) - trained).abs().max() < 1e-4
    whole = merged.merge_in_memory(read_adapter(tmp_path / "adapter"), base)
    assert (_logits(whole) - trained).abs().max() < 1e-4


@pytest.mark.parametrize("method", [name for name in METHODS if "dora" not in name])
def test_all_but_dora_is_saved_as_plain_lora(train, base, tmp_path: Path, method: str) -> None:
    train(replace(PLAIN, **METHODS[method]))
    adapter = read_adapter(tmp_path / "adapter")
    assert adapter.obstacle is None
    assert adapter.config["init_lora_weights"] is True
    assert not adapter.config["use_rslora"]
    config = adapter.config
    for pair in adapter.pairs:
        assert pair.rank in {config["r"], *config["rank_pattern"].values()}


def test_the_scale_of_rslora_becomes_an_alpha(new_model, tmp_path: Path) -> None:
    save_adapter(new_model(variant="rslora"), tmp_path, TINY_NAME)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["alpha_pattern"]) == (4, 8.0 * math.sqrt(4), {})


@pytest.mark.parametrize("method", ["lora", "dora", "rank_pattern", "pissa"])
def test_training_goes_on_from_a_saved_adapter(train, plain, base, tmp_path: Path, method: str) -> None:
    first, _ = train(replace(PLAIN, **METHODS[method]), folder="first")
    model = continue_adapter(attach.load_model(base, torch.float32, "cpu"), tmp_path / "first", TINY_NAME)
    assert (_logits(model) - _logits(first)).abs().max() < 1e-4, "it begins where the other ended"
    assert shape(model)["rank"] == (8 if method == "pissa" else 4)
    train(model=model.train(), folder="second")
    with attach.quiet_peft():
        loaded = peft.PeftModel.from_pretrained(plain(), tmp_path / "second")
    assert (_logits(loaded) - _logits(model)).abs().max() < 1e-5
    assert (_logits(model) - _logits(first)).abs().max() > 0.05


def test_an_adapter_of_another_base_or_method_is_not_gone_on_from(base, new_model, tmp_path: Path) -> None:
    save_adapter(new_model(), tmp_path, "other-base")
    model = attach.load_model(base, torch.float32, "cpu")
    with pytest.raises(TrainError, match="was trained on 'other-base', not 'tiny-instruct'"):
        continue_adapter(model, tmp_path, TINY_NAME)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": TINY_NAME}
    path.write_text(json.dumps(config | {"init_lora_weights": "pissa"}), encoding="utf-8")
    with pytest.raises(TrainError, match="for a base changed by its init 'pissa'"):
        continue_adapter(model, tmp_path, TINY_NAME)
    path.write_text(json.dumps(config | {"peft_type": "LOHA"}), encoding="utf-8")
    with pytest.raises(TrainError, match="of the method 'LOHA'"):
        continue_adapter(model, tmp_path, TINY_NAME)


@pytest.mark.parametrize("first_layer", [0, 1])
def test_only_the_adapter_of_the_layers_from_the_first_is_trained(new_model, first_layer: int) -> None:
    model = new_model(first_layer)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in trained}
    assert layers == set(range(first_layer, 2))
    assert first_trained_layer(model) == first_layer
    assert len(trained) == 2 * len(TARGETS) * (2 - first_layer)
    assert all("lora_" in name for name in trained)
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}


def test_a_trained_norm_outside_the_layers_counts_as_the_first_layer(new_model) -> None:
    model = new_model(1)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    assert first_trained_layer(model) == 0


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_fresh_adapter_changes_nothing(base, new_model, method: str) -> None:
    expected = _logits(attach.load_model(base, torch.float32, "cpu"))
    assert (_logits(new_model(**METHODS[method])) - expected).abs().max() < 1e-5


def test_the_written_config_names_the_base_and_no_path(base, new_model, tmp_path: Path) -> None:
    save_adapter(new_model(1), tmp_path, TINY_NAME)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    text = (tmp_path / "adapter_config.json").read_text(encoding="utf-8")
    config = json.loads(text)
    assert str(base) not in text
    assert "/" not in text.replace("\\/", "")
    assert config["base_model_name_or_path"] == TINY_NAME
    assert (config["r"], config["lora_alpha"], config["layers_to_transform"]) == (4, 8.0, [1])
    assert config["target_modules"] == sorted(TARGETS)
    assert config["inference_mode"] is True


def test_what_does_not_fit_the_base_is_named(base) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    with pytest.raises(BaseModelError, match="wrong_proj"):
        new_adapter(model, replace(PLAIN, targets=("wrong_proj",)))


def test_targets_that_the_base_has_no_module_for_are_named_where_others_are_trained(base, caplog) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    new_adapter(model, AdapterSettings(4, 8.0, ("o_proj", "gate_up_proj"), 0.0))
    assert "train.target_modules gate_up_proj: the base has no such modules" in caplog.text
    assert "it has down_proj, gate_proj, k_proj, lm_head, o_proj" in caplog.text


def test_a_pattern_that_matches_nothing_is_named(base) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    with pytest.raises(TrainError, match=r"train\.alpha_pattern 'q_prj' matches no module"):
        new_adapter(model, replace(PLAIN, rank_pattern={"q_proj": 2}, alpha_pattern={"q_prj": 2.0}))


def test_seeds_fix_what_is_drawn(new_model) -> None:
    one, two = (dict(new_model().named_parameters()) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_b_learns_the_given_ratio_faster_than_a(new_model) -> None:
    moved = {}
    for ratio in (None, 1.0, 16.0):
        model = new_model(trained=True)
        groups = [
            group | {"lr": 1e-3 * group["factor"]}
            for group in parameter_groups(model, ratio)
            if group["params"]
        ]
        optimizer = torch.optim.SGD(groups)
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        moved[ratio] = {name: value.detach() - before[name] for name, value in model.named_parameters()}
    for name, step in moved[16.0].items():
        factor = 16.0 if "lora_B" in name else 1.0
        assert torch.allclose(step, factor * moved[1.0][name], rtol=1e-2, atol=1e-7), name
        assert torch.equal(moved[None][name], moved[1.0][name])
    assert sum(bool(step.any()) for step in moved[16.0].values()) == 2 * 2 * len(TARGETS)


EXPERTS = {
    "mixtral": (transformers.MixtralConfig, {"num_local_experts": 4, "intermediate_size": 64}),
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        {"num_experts": 4, "moe_intermediate_size": 32, "intermediate_size": 64, "head_dim": 16},
    ),
}


@pytest.fixture(params=EXPERTS)
def expert_base(request, tmp_path: Path) -> Path:
    """A folder with a random two-layer model of four experts a layer, two of which see a token."""
    config_class, fields = EXPERTS[request.param]
    torch.manual_seed(0)
    config = config_class(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts_per_tok=2,
        vocab_size=320,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        **fields,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "experts")
    return tmp_path / "experts"


@pytest.mark.parametrize(
    "fields",
    [
        {"targets": ("q_proj", "v_proj")},
        {"targets": ("q_proj", "v_proj"), "layers": (1,), "variant": "rslora"},
        {"targets": (), "rank_pattern": {"gate_up_proj": 2}},
    ],
    ids=["all", "one_layer_rslora", "patterns"],
)
def test_experts_are_trained_saved_and_merged(train, expert_base: Path, tmp_path: Path, fields: dict) -> None:
    parameters = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    settings = replace(PLAIN, parameters=parameters, **fields)
    base = attach.load_model(expert_base, torch.float32, "cpu")
    before = _logits(base)
    model, engine = train(settings, model=new_adapter(base, settings))
    assert isinstance(engine, PlainEngine)
    assert first_trained_layer(model) == (1 if settings.layers else 0)
    assert any("experts" in name for name, value in model.named_parameters() if value.requires_grad)
    trained = _logits(model)
    assert (trained - before).abs().max() > 0.05
    assert (_logits(merged.load_adapted(expert_base, tmp_path / "adapter")) - trained).abs().max() < 1e-4
    adapter = read_adapter(tmp_path / "adapter")
    assert "experts" in str(adapter.obstacle)
    (tmp_path / "merged").mkdir()
    merged.write_merged(
        merged.merge_in_memory(adapter, expert_base), expert_base, tmp_path / "merged", "float32"
    )
    assert (_logits(merged.load_model(tmp_path / "merged")) - trained).abs().max() < 1e-4
    assert _names(tmp_path / "merged") == _names(expert_base)


def test_a_parameter_that_the_base_lacks_is_named(base) -> None:
    model = attach.load_model(base, torch.float32, "cpu")
    with (
        pytest.warns(RuntimeWarning, match="no parameter was matched"),
        pytest.raises(BaseModelError, match=r"'mlp\.experts\.down_proj' is no weight of the base"),
    ):
        new_adapter(model, replace(PLAIN, parameters=("mlp.experts.down_proj",)))


def _names(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())
