"""How the recipe says that an adapter is shaped and trained. Knows no weights and imports no torch."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.errors import TrainError

# Small corpora still gain after the 24th pass; two cores train on so many tokens in some 35 minutes.
TRAINING_TOKENS = 600_000
FEWEST_EPOCHS, MOST_EPOCHS = 8, 40
# Many facts get into each other's way in a small rank ("Data Quality over Capacity", arXiv:2607.21861, finds a hard
# gate). A larger one changes the weights further at the same rate, as its root (rsLoRA, arXiv:2312.03732).
MANY_FACTS, RANK_FOR_MANY = 5_000, 128


class TrainConfig(BaseModel):
    """How the adapter is shaped and trained.

    `rank`, `alpha` (twice the rank if not given), `dropout` and `target_modules` are LoRA's, as in peft.
    `learning_rate` rises over the first `warmup` share of the steps, then falls along a cosine; `weight_decay`
    and `max_gradient_norm` are AdamW's and the clipping's. Where no rank is given, 5,000 facts or more get one of
    128, and half the learning rate unless that is given. Training takes `epochs`, if not given as
    many as 600,000 tokens make, 8 to 40; rows longer than `max_tokens` are left out.
    Recall is measured each `recall_every` epochs, and a checkpoint kept each `checkpoint_seconds`. With `patience`
    training ends early: after so many measurements in a row without a better one, since some recall was there.

    An epoch takes one wording of every fact and the next epoch another, from at most `wordings` each.
    `first_layer` is the first layer with an adapter: a whole number, or a share of the layers below 1; what
    lies below is computed once a row. `batch_size` is rows per optimizer step, `micro_batch` rows in memory
    at once (`auto`: as many as fit). `precision` is the dtype of the frozen weights (`auto`: bf16 where the
    device is fast at it, else fp16 on a GPU and fp32 on a CPU); `quantization`
    loads the base in 4 bits (`nf4`) or 8 (`int8`). `optimizer` is AdamW as in torch, or bitsandbytes' with 8-bit
    moments that can leave a full GPU. `checkpointing` computes activations twice to save memory; with
    `offload` what each layer begins with is kept in main memory, too. `compile` lets torch compile the layers, which
    pays in runs of many thousand steps on a GPU.

    `variant` is `lora`, `rslora` (scaled by alpha / √rank, with an alpha of 16 if not given; saved as plain LoRA) or
    `dora` (magnitudes trained, too; its bundle has merged files, but no adapter as GGUF). `init` is how A and B
    begin: `pissa` with the weights' principal part, `loftq` with what `nf4` lost of them, `eva` with the inputs'
    main directions on training rows. With `whiten`, A learns as if what each layer reads lay in all directions alike:
    facts stick in fewer passes. `retain` is how much a change of what the model says to general questions weighs beside
    the loss, both in nats a token; 0 leaves it out, and DoRA and experts' weights have no such thing. `lora_plus` is
    how many times as fast B learns as A (16 is usual).
    `layers` lists the layers with an adapter, instead of `first_layer`. `rank_pattern` and `alpha_pattern` give
    other numbers to modules whose name's end matches: `{q_proj: 64, "layers.[0-3].mlp.*": 8}`.
    `target_parameters` are weights without a module of their own, such as `mlp.experts.down_proj`; the
    bundle has merged files then, but no adapter as GGUF.
    `continue_from` is an adapter folder or bundle of the same base whose adapter is trained on, as it is shaped: the
    keys of shape and variant do not count then.

    `distill` is the share of context distillation in the loss of an answer's token: the divergence from what the
    untrained base says with the evidence in its prompt, where it says the same. `preferences` is a file of
    `{"prompt", "chosen", "rejected"}` a line, as `factory learn-from-feedback` writes it, to train on afterwards:
    `dpo_epochs` of direct preference optimization whose `dpo_beta` holds the adapter near what it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=32, ge=1, le=1024)
    alpha: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    first_layer: float = Field(default=0.0, ge=0.0)
    learning_rate: float = Field(default=1.5e-3, gt=0, lt=1)
    warmup: float = Field(default=0.1, ge=0.0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0.0, lt=1)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    epochs: int | None = Field(default=None, ge=1, le=1000)
    wordings: int = Field(default=24, ge=1, le=100)
    batch_size: int = Field(default=16, ge=1)
    max_tokens: int = Field(default=320, ge=16)
    recall_every: int = Field(default=4, ge=1)
    patience: int | None = Field(default=None, ge=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "nf4", "int8"] = "none"
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    variant: Literal["lora", "rslora", "dora"] = "lora"
    init: Literal["default", "pissa", "loftq", "eva"] = "default"
    lora_plus: float | None = Field(default=None, gt=0)
    whiten: bool = True
    retain: float = Field(default=10.0, ge=0)
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = {}
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = {}
    target_parameters: tuple[str, ...] = ()
    continue_from: Path | None = Field(default=None, exclude=True)
    distill: float = Field(default=0.0, ge=0.0, le=1.0)
    preferences: Path | None = Field(default=None, exclude=True)  # its content counts
    dpo_beta: float = Field(default=0.1, gt=0, le=10)
    dpo_epochs: int = Field(default=1, ge=1, le=100)
    checkpointing: bool | Literal["offload"] = Field(default=False, exclude=True)
    compile: bool = Field(default=False, exclude=True)
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default="auto", exclude=True)
    checkpoint_seconds: float = Field(default=30.0, gt=0, exclude=True)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", exclude=True)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        init, dora, experts = self.init, self.variant == "dora", bool(self.target_parameters)
        conflicts = [
            (
                init == "loftq" and self.quantization != "nf4",
                "init loftq makes up for what 4 bits lose: set quantization to nf4",
            ),
            (
                init == "pissa" and self.quantization != "none",
                "init pissa takes whole weights apart: set quantization to none, or init to loftq",
            ),
            (init == "loftq" and dora, "init loftq and variant dora exclude each other: leave one out"),
            (self.layers and self.first_layer, "layers and first_layer both choose layers: leave one out"),
            (self.layers == (), "layers is empty: name a layer, or leave it out"),
            (experts and dora, "target_parameters have no variant dora: set it to lora or rslora"),
            (experts and init != "default", "target_parameters begin as by default: leave init out"),
            (experts and self.dropout, "target_parameters have no dropout: set it to 0"),
            (
                self.continue_from and self.distill,
                "distill learns from the untrained base, which continue_from does not begin with: leave one out",
            ),
            (
                self.continue_from and init != "default",
                "continue_from brings its own A and B: leave init out",
            ),
        ]
        conflicts += [
            (not _is_regex(pattern), f"pattern {pattern!r} is no regular expression: correct it")
            for pattern in (*self.rank_pattern, *self.alpha_pattern)
        ]
        if faults := [sentence for is_so, sentence in conflicts if is_so]:
            raise ValueError("; ".join(faults))
        return self


def choose_rank(config: TrainConfig, num_facts: int) -> TrainConfig:
    """Return what a recipe says, with the rank and the learning rate that suit so many facts where it says nothing."""
    if num_facts < MANY_FACTS or "rank" in config.model_fields_set:
        return config
    rate = config.learning_rate
    if "learning_rate" not in config.model_fields_set:
        rate *= math.sqrt(config.rank / RANK_FOR_MANY)
    return config.model_copy(update={"rank": RANK_FOR_MANY, "learning_rate": rate})


def choose_epochs(config: TrainConfig, tokens_an_epoch: float) -> int:
    """Return how many epochs to train: what the recipe says, else what makes the tokens of a default training."""
    if config.epochs is not None:
        return config.epochs
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, round(TRAINING_TOKENS / max(1.0, tokens_an_epoch))))


def _is_regex(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def chosen_layers(config: TrainConfig, num_layers: int) -> tuple[int, ...] | None:
    """Return the layers with an adapter, or None for all of them.

    Raises:
        TrainError: there is no such layer.
    """
    if config.layers is not None:
        if max(config.layers) >= num_layers:
            raise TrainError(
                f"train.layers names layer {max(config.layers)}, the base has 0 to {num_layers - 1}: leave it out"
            )
        return tuple(sorted(set(config.layers)))
    chosen = config.first_layer
    first = round(chosen * num_layers) if 0 < chosen < 1 else int(chosen)
    if first >= num_layers:
        raise TrainError(
            f"train.first_layer={chosen} leaves none of the base's {num_layers} layers: lower it"
        )
    return tuple(range(first, num_layers)) if first else None
