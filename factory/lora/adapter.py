"""LoRA adapters put on a base, and saved so that they mean the same on it later. Knows peft; not rows or loops.

Whatever an adapter was trained as, its folder holds plain LoRA, or DoRA, for the base as it is: rsLoRA's scale is
written as an alpha, and what an initialisation took out of the weights is subtracted by ranks of its own.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.other import get_pattern_key

from factory import store
from factory.errors import BaseModelError, TrainError
from factory.lora import initial
from factory.lora.attach import load_adapter, quiet_peft
from factory.lora.batches import EncodedRow
from factory.lora.checkpoint import trained_state
from factory.lora.config import TrainConfig, chosen_layers
from factory.lora.initial import ADAPTER, PISSA

logger = logging.getLogger(__name__)
LAYER = re.compile(r"\.layers\.(\d+)\.")
RSLORA_ALPHA = (
    16.0  # as in its paper, arXiv 2312.03732: at a scale of alpha / √rank, twice the rank is too much
)
CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # peft does so again whenever it loads one
Variant = Literal["lora", "rslora", "dora"]
Init = Literal["default", "pissa", "loftq", "eva"]
BASE_INITS: dict[Init, bool | str] = {
    "default": True,
    "pissa": PISSA,
    "loftq": True,
    "eva": "eva",
}  # peft's names


@dataclass(frozen=True)
class AdapterSettings:
    """An adapter's shape and method; `layers` None means all, patterns map the end of a module's name to a number.

    `parameters` are named where a layer holds its weights without a module of their own, as experts do.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    variant: Variant = "lora"
    init: Init = "default"


def settings_of(config: TrainConfig, num_layers: int) -> AdapterSettings:
    """Return what a recipe says of the adapter on a base with so many layers.

    Raises:
        TrainError: there is no such layer.
    """
    alpha = config.alpha or (RSLORA_ALPHA if config.variant == "rslora" else 2.0 * config.rank)
    return AdapterSettings(
        rank=config.rank,
        alpha=alpha,
        targets=config.target_modules,
        dropout=config.dropout,
        layers=chosen_layers(config, num_layers),
        rank_pattern=config.rank_pattern,
        alpha_pattern=config.alpha_pattern,
        parameters=config.target_parameters,
        variant=config.variant,
        init=config.init,
    )


def new_adapter(
    model: Any, settings: AdapterSettings, *, base: Path | None = None, rows: Sequence[EncodedRow] = ()
) -> Any:
    """Return the model in training mode with a fresh adapter in float32; the base stays frozen.

    Args:
        model: the base.
        settings: the adapter's shape and method.
        base: the base's folder, whose exact weights `loftq` compares with.
        rows: what `eva` looks at.

    Raises:
        BaseModelError: the base has no such modules.
        TrainError: a pattern matches none of them, `eva` has too few rows, or a matrix has no such rank.
    """
    config = _config(settings)
    exact = initial.in_float32(model) if settings.init == "pissa" else nullcontext()
    try:
        with quiet_peft(), exact:
            model = get_peft_model(model, config, low_cpu_mem_usage=settings.init == "eva")
    except ValueError as error:
        names = [*settings.targets, *settings.parameters]
        raise BaseModelError(f"train.target_modules {names} does not fit the base: {error}") from error
    _refuse_idle(model, settings)
    _tell_idle_targets(model, settings)
    if settings.init in {"pissa", "loftq"}:
        _refuse_high_ranks(model, settings.init)
    if settings.init == "loftq":
        assert base is not None, "loftq needs the base's folder"
        initial.begin_with_quantization_error(model, adapted_layers(model), base)
    if settings.init == "eva":
        initial.begin_with_inputs(model, rows)
    return model.train()


def continue_adapter(model: Any, folder: Path, base_name: str) -> Any:
    """Return the model in training mode with a saved adapter, whose shape stays what it is.

    Raises:
        TrainError: it was trained on another base, is no LoRA adapter, or one for weights that it changes first.
        BaseModelError: it does not fit the model.
    """
    config = store.read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise TrainError(
            f"train.continue_from {folder.name!r} is of the method {config.get('peft_type')!r}: name a LoRA adapter"
        )
    if config.get("base_model_name_or_path") != base_name:
        raise TrainError(
            f"train.continue_from {folder.name!r} was trained on {config.get('base_model_name_or_path')!r}, not "
            f"{base_name!r}: set `base` in the recipe, or name another adapter"
        )
    begun = config.get("init_lora_weights")
    if str(begun).lower().startswith(CHANGE_BASE):
        raise TrainError(
            f"train.continue_from {folder.name!r} is for a base changed by its init {begun!r}: save it with peft's "
            "path_initial_model_for_weight_conversion, or name another adapter"
        )
    return load_adapter(model, folder, trainable=True).train()


def reads_rows(layer: Any) -> bool:
    """Tell whether a layer puts rows of numbers through an A of its own, as those of experts and embeddings do not."""
    return ADAPTER in layer.lora_A and not isinstance(layer, ParamWrapper)


def adapted_layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    """Yield every layer that an adapter is on, by the name that peft's patterns are matched with."""
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            plain = name.replace(".base_layer", "")
            yield (f"{plain}.{layer.parameter_name}" if isinstance(layer, ParamWrapper) else plain), layer


def shape(model: Any) -> dict[str, Any]:
    """Return an adapter's rank, alpha and target modules by the recipe's names."""
    config = model.peft_config[ADAPTER]
    chosen = config.target_modules or ()
    targets = chosen if isinstance(chosen, str) else ", ".join(sorted(chosen))  # other tools write a pattern
    return {"rank": config.r, "alpha": config.lora_alpha, "target_modules": targets}


def first_trained_layer(model: Any) -> int:
    """Return the number of the first layer that is trained; 0 when anything outside the layers is."""
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    found = [LAYER.search(name) for name in names]
    return min((int(match[1]) if match else 0 for match in found), default=0)


def parameter_groups(model: Any, lora_plus: float | None) -> list[dict[str, Any]]:
    """Return what is trained as an optimizer's groups, whose `factor` goes with the learning rate.

    B, and vectors beside it, learn `lora_plus` times as fast as A (LoRA+, arXiv 2402.12354), as in peft.
    """
    trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    if lora_plus is None:
        return [{"params": [value for _, value in trained], "factor": 1.0}]
    fast = ["lora_B" in name or value.ndim == 1 for name, value in trained]
    return [
        {"params": [value for (_, value), is_fast in zip(trained, fast, strict=True) if is_fast == wanted]}
        | {"factor": lora_plus if wanted else 1.0}
        for wanted in (False, True)
    ]


def beginning(model: Any, settings: AdapterSettings) -> dict[str, torch.Tensor]:
    """Return A and B as training begins with them where they stand for a part of the base, else nothing."""
    return trained_state(model) if settings.init in {"pissa", "loftq"} else {}


def save_adapter(
    model: Any, folder: Path, base_name: str, begun: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, which mean on the plain base what was trained.

    The folder names the base, not its path. `begun` is what `beginning` returned: B A minus this is written, as an
    adapter of twice the ranks.
    """
    config = model.peft_config[ADAPTER]
    state = None
    if begun:
        state = {name: _joined(name, value, begun) for name, value in trained_state(model).items()}
    if begun or config.use_rslora:
        _scale_plainly(model, config, 2 if begun else 1)
    config.init_lora_weights, config.eva_config = True, None
    config.base_model_name_or_path, config.inference_mode = base_name, True
    for name in ("target_modules", "target_parameters"):  # sets: peft would write them in any order
        chosen = getattr(config, name)
        setattr(config, name, sorted(chosen) if isinstance(chosen, set | list) else chosen)
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=state)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template card; the bundle has its own


def _config(settings: AdapterSettings) -> LoraConfig:
    parameters = settings.parameters
    if settings.layers is not None:  # which peft asks about modules only
        parameters = tuple(f"layers.{number}.{name}" for number in settings.layers for name in parameters)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Using Rank-Stabilized LoRA"
        )  # peft's way of saving cannot, ours can
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # annotated as int, used as a number
            lora_dropout=settings.dropout,
            target_modules=list(settings.targets),
            target_parameters=list(parameters) or None,
            layers_to_transform=None if settings.layers is None else list(settings.layers),
            rank_pattern=dict(settings.rank_pattern),
            alpha_pattern=dict(settings.alpha_pattern),
            use_rslora=settings.variant == "rslora",
            use_dora=settings.variant == "dora",
            init_lora_weights=BASE_INITS[settings.init],  # type: ignore[arg-type]
            eva_config=EvaConfig() if settings.init == "eva" else None,
        )


def _refuse_idle(model: Any, settings: AdapterSettings) -> None:
    names = [name for name, _ in adapted_layers(model)]
    for parameter in settings.parameters:
        if not any(f".{name}".endswith(f".{parameter}") for name in names):
            raise BaseModelError(
                f"train.target_parameters {parameter!r} is no weight of the base: leave it out"
            )
    for key, patterns in (("rank", settings.rank_pattern), ("alpha", settings.alpha_pattern)):
        for pattern in patterns:
            if all(get_pattern_key([pattern], name) != pattern for name in names):
                raise TrainError(
                    f"train.{key}_pattern {pattern!r} matches no module with an adapter, such as {names[0]!r}: match "
                    "the end of a name, such as 'q_proj'"
                )


def _tell_idle_targets(model: Any, settings: AdapterSettings) -> None:
    """Say which targets the base has no module for, as where it computes several of them in one."""
    names = [name for name, _ in adapted_layers(model)]
    idle = [
        target for target in settings.targets if not any(f".{name}".endswith(f".{target}") for name in names)
    ]
    found = sorted(model.peft_config[ADAPTER].target_parameters or ())
    if idle and found == sorted(settings.parameters):  # else peft has found them as weights of experts
        logger.warning(
            "train.target_modules %s: the base has no such modules, so less of it is trained; it has %s",
            ", ".join(idle),
            ", ".join(_linear_modules(model)),
        )


def _linear_modules(model: Any) -> list[str]:
    found = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    ends = (name.removesuffix(".base_layer").rpartition(".")[2] for name in found if ".lora_" not in name)
    return sorted(set(ends))


def _refuse_high_ranks(model: Any, init: str) -> None:
    layers: Iterator[tuple[str, Any]] = adapted_layers(model)
    for name, layer in layers:
        rank, most = layer.r[ADAPTER], min(layer.in_features, layer.out_features)
        if rank > most:
            raise TrainError(
                f"train.init {init!r} takes {name!r} apart, which has no more than {most} ranks, and is asked for "
                f"{rank}: lower train.rank, give this module a rank in train.rank_pattern, or leave init out"
            )


def _joined(name: str, value: torch.Tensor, begun: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return a matrix beside the one it began as, which B's half takes off again."""
    if "lora_A" in name:
        return torch.cat([value, begun[name]])
    return torch.cat([value, -begun[name]], dim=1) if "lora_B" in name else value


def _scale_plainly(model: Any, config: Any, times: int) -> None:
    """Rewrite a config of `times` as many ranks so that alpha / r, LoRA's own scale, is the trained one."""
    root = math.sqrt(config.r) if config.use_rslora else 1.0
    config.r, config.lora_alpha = config.r * times, config.lora_alpha * root * times
    config.use_rslora = False
    if not config.rank_pattern and not config.alpha_pattern:
        return
    shapes = {
        name: (layer.r[ADAPTER] * times, layer.scaling[ADAPTER] * layer.r[ADAPTER] * times)
        for name, layer in adapted_layers(model)
    }
    config.rank_pattern = {name: rank for name, (rank, _) in shapes.items() if rank != config.r}
    config.alpha_pattern = {
        name: alpha for name, (_, alpha) in shapes.items() if not math.isclose(alpha, config.lora_alpha)
    }
