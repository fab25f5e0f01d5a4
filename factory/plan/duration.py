"""How long the stages take, from what they took on a known machine and this one's speed. Knows no memory."""

import time
from dataclasses import dataclass

import torch

from factory.lora import attach
from factory.lora.config import TrainConfig
from factory.lora.memory import Setup
from factory.lora.retention import TOKENS as LOOKED_TOKENS
from factory.plan.workload import Workload
from factory.recipe import Recipe

PROBE_SECONDS, PROBE_WIDTH = 0.5, 1024
# Seconds that the quickstart's stages took on two cores with AVX-512 and bf16: 37 files, 747 rows an epoch,
# SmolLM2-135M as Q8_0 and Q4_K_M, 441 questions. What computes with the model grows with its size.
SECONDS_A_FILE = 0.1
SECONDS_A_ROW = {"chunk": 0.0002, "synthesize": 0.003, "curate": 0.005}
MEASURED_PARAMETERS, MEASURED_FLOPS = 135e6, 198e9  # operations a second in fp32
# Of the rate of matrix products alone, what training reached there, and what looking at general questions did.
TRAINING_SHARE, LOOK_SHARE = 0.41, 0.18
MERGE_SECONDS, EXPORT_SECONDS = 1.9, 1.3
QUANTIZE_SECONDS, TYPE_SECONDS = 13.0, 3.0  # the files in 16 bits and the importance matrix; each other type
VERIFY_SECONDS, CHECK_SECONDS = 10.0, 6.0  # the weights and the file in 16 bits; each other type
ANSWER_SECONDS, RETRIEVAL_ANSWERS = 0.1, 4  # one answer; how many such one to a prompt with passages costs


@dataclass(frozen=True)
class Speeds:
    """Operations a second: in training, on its device and in its precision, and on the CPU in fp32."""

    training: float
    cpu: float


def estimate_seconds(recipe: Recipe, setup: Setup, work: Workload, speeds: Speeds) -> dict[str, float]:
    """Return about how long each stage takes, by name; what a teacher takes to answer is not in it."""
    types, rag = len(recipe.quantize.types), recipe.evaluate.rag * recipe.evaluate.rag_questions
    slower = setup.shape.parameters / MEASURED_PARAMETERS * MEASURED_FLOPS / speeds.cpu
    answers = work.questions * (2 + types) + 2 * RETRIEVAL_ANSWERS * rag  # base and adapter
    answers += 2 * recipe.curate.calibration_questions * (1 + types)
    tokens = work.rows.an_epoch * work.rows.mean - setup.fused * work.rows.repeated
    flops = tokens * _flops_a_token(work.rows.epochs(recipe.train), recipe.train.wordings, setup)
    return {
        "ingest": work.files * SECONDS_A_FILE,
        **{stage: work.rows.an_epoch * seconds for stage, seconds in SECONDS_A_ROW.items()},
        "train": flops / (TRAINING_SHARE * speeds.training)
        + _look_flops(recipe, setup) / (LOOK_SHARE * speeds.training),
        "merge": slower * MERGE_SECONDS,
        "quantize": slower * (QUANTIZE_SECONDS + types * TYPE_SECONDS),
        "verify": slower * (VERIFY_SECONDS + types * CHECK_SECONDS),
        "evaluate": slower * answers * ANSWER_SECONDS,
        "export": slower * EXPORT_SECONDS,
    }


def _flops_a_token(epochs: int, wordings: int, setup: Setup) -> float:
    """Return the operations that all epochs spend on one token of a row.

    A trained layer goes forward and back, without a gradient of its own weights; a frozen one goes forward once for
    every wording; the output layer sees the answers only, a quarter of all tokens.
    """
    shape = setup.shape
    share = setup.layers / shape.layers
    output, layers = shape.vocabulary * shape.width, shape.layer_parameters
    return epochs * (4 * share * layers + output) + min(epochs, wordings) * 2 * (1 - share) * layers


def _look_flops(recipe: Recipe, setup: Setup) -> float:
    """Return the operations that it takes to see what `train.retain` holds: all layers, forward and back."""
    return 4.0 * LOOKED_TOKENS * setup.shape.layer_parameters if recipe.train.retain else 0.0


def probe_flops(train: TrainConfig | None = None) -> float:
    """Return the operations a second of half a second's matrix products, as in training or else in fp32 on the CPU."""
    device, dtype = "cpu", torch.float32
    if train:
        device = attach.pick_device() if train.device == "auto" else train.device
        dtype = attach.pick_dtype(train.precision, device)
    left, right = (torch.randn(PROBE_WIDTH, PROBE_WIDTH).to(device, dtype) for _ in range(2))
    left @ right
    started, products = time.perf_counter(), 0
    while time.perf_counter() - started < PROBE_SECONDS:
        (left @ right)[0, 0].item()  # waits for a GPU
        products += 1
    return products * 2 * PROBE_WIDTH**3 / (time.perf_counter() - started)
