"""What a run would do and cost: states of the stages, time, memory and disk, from recipe and short probes."""

import io
import logging
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from factory import artifacts, hardware, store
from factory.chat.template import conversation, encode_example
from factory.errors import BaseModelError, FactoryError
from factory.pipeline import Run
from factory.recipe import Recipe
from factory.rows import Example, Message, read_rows, write_rows
from factory.stages.train import TrainConfig

logger = logging.getLogger(__name__)
GIB = 2**30
PROBE_SECONDS, PROBE_WIDTH = 0.5, 1024
PROBED_PARAMETERS = 500_000_000  # a training step of a larger base takes minutes on a CPU
LIBRARIES_BYTES = 700 << 20  # torch, transformers and peft once imported, measured on Linux x86-64
LONG_RUN_BYTES = 5 << 29  # what the quickstart's training, at 5.1 GiB, peaked above its largest step
SLACK = 1.15
SAMPLED_ROWS = 500
TURN_TOKENS = 5  # what ChatML puts around a turn: <|im_start|>, role, newline, <|im_end|>, newline
GUESSED_TOKENS = 32.0  # mean row of the sample company
# Source bytes a fact, in the sample company: plain text, and what carries more than its text.
PLAIN_SUFFIXES = frozenset({".csv", ".eml", ".json", ".jsonl", ".md", ".py", ".rst", ".tsv", ".txt"})
BYTES_A_FACT, PACKED_BYTES_A_FACT = 55, 800
GENERAL_QUESTIONS = 60  # lines of factory/tasks/general.jsonl
TIGHT = 0.8  # share of the available memory above which a run is called tight
# Seconds that the quickstart's stages took on two cores with AVX-512 and bf16: 37 files, 814 facts and passages,
# SmolLM2-135M as Q8_0 and Q4_K_M, 306 questions. What computes with the model grows with its size.
SECONDS_A_FILE = 0.1
SECONDS_A_ROW = {"chunk": 0.0002, "synthesize": 0.001, "curate": 0.003}
MEASURED_PARAMETERS, MEASURED_FLOPS = 135e6, 65e9  # operations a second in fp32
MERGE_SECONDS, EXPORT_SECONDS = 1.9, 1.3
QUANTIZE_SECONDS, TYPE_SECONDS = 16.0, 3.0  # the files in 16 bits and the importance matrix; each other type
VERIFY_SECONDS, CHECK_SECONDS = 15.0, 8.0  # the weights and the file in 16 bits; each other type
ANSWER_SECONDS, RETRIEVAL_ANSWERS = 0.175, 4  # one answer; how many such one to a prompt with passages costs


@dataclass(frozen=True)
class Workload:
    """How much there is: source files, rows an epoch (one a fact or passage), their mean tokens, questions to ask."""

    files: int
    rows: int
    tokens: float
    questions: int


@dataclass(frozen=True)
class Speeds:
    """Operations a second: in training, on its device and in its precision, and on the CPU in fp32."""

    training: float
    cpu: float


def make_plan(run: Run) -> dict[str, Any]:
    """Return stage states, estimates and a verdict (`fits`, `tight`, `does not fit`)."""
    shape, states = _shape(run.base.folder), run.states()
    work, speeds = _workload(run), Speeds(probe_flops(run.recipe.train), probe_flops())
    seconds = estimate_seconds(run.recipe, shape, work, speeds)
    to_do = {name: round(seconds[name], 1) for name, state in states.items() if state == "to do"}
    available, free = hardware.available_memory_bytes(), hardware.free_disk_bytes(run.out)
    predicted = _predict_for(run.recipe, shape)
    cheap = shape["parameters"] <= PROBED_PARAMETERS and predicted <= available
    probed = probe_memory(run.recipe) if cheap and "train" in to_do else None
    disk = 6 * shape["parameters"] * 2 + (64 << 20)
    return {
        "recipe": run.recipe.name,
        "base": run.base.name,
        "machine": hardware.describe_machine(),
        "stages": [
            {"name": name, "status": state, "seconds": to_do.get(name, 0.0)} for name, state in states.items()
        ],
        "minutes": round(sum(to_do.values()) / 60, 1),
        "training": {
            "rows_an_epoch": work.rows,
            "tokens_a_row": round(work.tokens, 1),
            "minutes": round(seconds["train"] / 60, 1),
        },
        "memory_gib": {
            "predicted": round(predicted / GIB, 2),
            "probed": round(probed / GIB, 2) if probed else None,
            "available": round(available / GIB, 2),
        },
        "disk_gib": {"predicted": round(disk / GIB, 2), "free": round(free / GIB, 2)},
        "probe_gflops": round(speeds.training / 1e9, 1),
        "verdict": _verdict(max(predicted, probed or 0), available, disk, free),
    }


def _verdict(memory: float, available: float, disk: float, free: float) -> str:
    if memory > available or disk > free:
        return "does not fit"
    return "tight" if memory > TIGHT * available or disk > TIGHT * free else "fits"


def _shape(folder: Path) -> dict[str, int]:
    config = store.read_json(folder / "config.json")
    try:
        width, layers, inner = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
        heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
    except KeyError as error:
        raise BaseModelError(
            f"The base in {folder.name!r} has no {error} in its config.json, so it is not of the Llama or Qwen "
            "family: name another base"
        ) from error
    head = config.get("head_dim") or width // heads
    queries, keys = heads * head, config.get("num_key_value_heads", heads) * head
    return {
        "width": width,
        "layers": layers,
        "inner": inner,
        "vocabulary": vocabulary,
        "parameters": layers * (2 * width * (queries + keys) + 3 * width * inner) + vocabulary * width,
        "parameters_a_rank": layers * (4 * width + 2 * (queries + keys) + 3 * (width + inner)),
    }


def _trained_share(first_layer: float, layers: int) -> float:
    return 1 - (first_layer if first_layer < 1 else first_layer / layers)


def estimate_seconds(
    recipe: Recipe, shape: dict[str, int], work: Workload, speeds: Speeds
) -> dict[str, float]:
    """Return about how long each stage takes, by name; what a teacher takes to answer is not in it."""
    types, rag = len(recipe.quantize.types), recipe.evaluate.rag * recipe.evaluate.rag_questions
    slower = shape["parameters"] / MEASURED_PARAMETERS * MEASURED_FLOPS / speeds.cpu
    answers = work.questions * (2 + types) + RETRIEVAL_ANSWERS * rag
    return {
        "ingest": work.files * SECONDS_A_FILE,
        **{stage: work.rows * seconds for stage, seconds in SECONDS_A_ROW.items()},
        "train": work.rows * work.tokens * _flops_a_token(recipe.train, shape) / speeds.training,
        "merge": slower * MERGE_SECONDS,
        "quantize": slower * (QUANTIZE_SECONDS + types * TYPE_SECONDS),
        "verify": slower * (VERIFY_SECONDS + types * CHECK_SECONDS),
        "evaluate": slower * answers * ANSWER_SECONDS,
        "export": slower * EXPORT_SECONDS,
    }


def _flops_a_token(train: TrainConfig, shape: dict[str, int]) -> float:
    """Return the operations that all epochs spend on one token of a row.

    A trained layer goes forward and back, without a gradient of its own weights; a frozen one goes forward once for
    every wording; the output layer sees the answers only, a quarter of all tokens.
    """
    share, output = _trained_share(train.first_layer, shape["layers"]), shape["vocabulary"] * shape["width"]
    layers = shape["parameters"] - output
    return (
        train.epochs * (4 * share * layers + output)
        + min(train.epochs, train.wordings) * 2 * (1 - share) * layers
    )


def _predict_for(recipe: Recipe, shape: dict[str, int]) -> float:
    train = recipe.train
    rows, share = min(train.batch_size, train.micro_batch), _trained_share(train.first_layer, shape["layers"])
    return predict_memory(shape, train.rank, rows, train.max_tokens, share)


def predict_memory(
    shape: dict[str, int], rank: int, rows: int, max_tokens: int, trained_share: float = 1.0
) -> float:
    """Return the bytes that training on a CPU in fp32 needs at most.

    Weights; four fp32 numbers a trained parameter (value, gradient, two moments); what each trained layer
    keeps for the backward pass of that many full rows; the logits of answers, a quarter of all tokens; and
    what a long run adds to one step, in caches for batches of every size and a heap in pieces.
    """
    adapter = trained_share * shape["parameters_a_rank"] * rank
    tokens = rows * max_tokens
    kept = trained_share * tokens * shape["layers"] * (12 * shape["width"] + 4 * shape["inner"])
    logits = tokens / 4 * shape["vocabulary"] * 4 * 2
    step = LIBRARIES_BYTES + 4 * shape["parameters"] + 16 * adapter + kept + logits
    return SLACK * step + LONG_RUN_BYTES


def probe_memory(recipe: Recipe) -> int | None:
    """Return the peak memory in bytes of one training step on the largest rows, taken in a process of its own.

    A process that the system kills for want of memory counts as all there is; None when the step failed otherwise.
    """
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, spawn) as pool:
        try:
            return pool.submit(take_largest_step, recipe, Path(folder)).result()
        except BrokenProcessPool:
            return hardware.total_memory_bytes()
        except FactoryError as error:
            logger.warning("memory could not be probed: %s", error)
            return None


def take_largest_step(recipe: Recipe, out: Path) -> int:
    """Train one step on rows as long as the recipe allows, as the train stage does, and return the peak in bytes.

    Raises:
        FactoryError: training cannot take the step.
    """
    train = recipe.train
    num_rows = min(train.batch_size, train.micro_batch)
    changes = {"epochs": 1, "recall_every": 1, "batch_size": num_rows, "distill": 0.0, "preferences": None}
    run = Run(recipe.model_copy(update={"train": train.model_copy(update=changes)}), out, lambda line: None)

    def write_dataset(work: Path) -> dict[str, Any]:
        messages = _largest_row(run.base.folder, train.max_tokens, recipe.system)
        write_rows(
            work / "train.jsonl",
            [Example(id=str(i), form="probe", messages=messages, facts=()) for i in range(num_rows)],
        )
        write_rows(work / "valid.jsonl", [])
        return {}

    artifacts.build(out / "dataset", kind="dataset", code_version=0, config={}, inputs={}, make=write_dataset)
    with redirect_stderr(io.StringIO()):  # this is not the training that a bar is meant for
        outcome = run.execute(only="train")
    if outcome.error:
        raise outcome.error
    return artifacts.read_record(out / "adapter").peak_memory_bytes


def _largest_row(base: Path, max_tokens: int, system: str) -> tuple[Message, ...]:
    """Return a conversation of up to `max_tokens`, a quarter of them in the answer."""
    from factory.weights.conversations import load_tokenizer

    tokenizer, words = load_tokenizer(base), max_tokens
    while True:
        messages = conversation("the " * (3 * words // 4), "the " * (words // 4), system)
        over = len(encode_example(tokenizer, messages)[0]) - max_tokens
        if over <= 0 or words <= over:
            return messages
        words -= over


def _workload(run: Run) -> Workload:
    """Return how much there is to do: from the dataset, else guessed from the sources."""
    found = store.walk_files(run.recipe.ingest.source)
    questions = run.recipe.curate.test_questions + GENERAL_QUESTIONS * run.recipe.evaluate.general
    if own := run.recipe.evaluate.questions:
        questions += own.read_text(encoding="utf-8").count("\n") if own.is_file() else 0
    rows = run.out / "dataset" / "train.jsonl"
    if rows.is_file():
        return Workload(len(found), *read_workload(rows, run.base.folder), questions)
    facts = sum(path.stat().st_size / _bytes_a_fact(path) for path in found[:10_000])
    return Workload(len(found), max(50, min(int(facts), 20_000)), GUESSED_TOKENS, questions)


def _bytes_a_fact(path: Path) -> int:
    return BYTES_A_FACT if path.suffix.lower() in PLAIN_SUFFIXES else PACKED_BYTES_A_FACT


def read_workload(rows: Path, base: Path) -> tuple[int, float]:
    """Return rows an epoch (one a fact or passage) and mean tokens a row, from an even sample."""
    examples = list(read_rows(rows, Example))
    if not examples:
        return 0, 0.0
    groups = {row.facts or row.id for row in examples}
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    sampled = examples[:: -(-len(examples) // SAMPLED_ROWS)]
    texts = [message.content for row in sampled for message in row.messages]
    tokens = sum(
        len(code.ids) + TURN_TOKENS for code in tokenizer.encode_batch(texts, add_special_tokens=False)
    )
    return len(groups), tokens / len(sampled)


def probe_flops(train: TrainConfig | None = None) -> float:
    """Return the operations a second of half a second's matrix products, as in training or else in fp32 on the CPU."""
    import torch

    from factory.lora import attach

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


def describe(plan: dict[str, Any]) -> str:
    """Return a plan as text."""
    stages = "\n".join(map(_stage_line, plan["stages"]))
    training, memory, disk = plan["training"], plan["memory_gib"], plan["disk_gib"]
    probed = f", {memory['probed']} GiB in one step that was tried" if memory["probed"] else ""
    nothing_left = all(stage["status"] != "to do" for stage in plan["stages"])
    time_left = "nothing is to do" if nothing_left else f"about {plan['minutes']} minutes for what is to do"
    return (
        f"{plan['recipe']} on {plan['base']} ({plan['machine']})\n{stages}\n"
        f"time      {time_left}\n"
        f"training  {training['rows_an_epoch']} rows an epoch, {training['tokens_a_row']} tokens a row\n"
        f"memory    {memory['predicted']} GiB needed{probed}, {memory['available']} GiB available\n"
        f"disk      {disk['predicted']} GiB needed, {disk['free']} GiB free\n"
        f"verdict   {plan['verdict']}"
    )


def _stage_line(stage: dict[str, Any]) -> str:
    line, seconds = f"  {stage['name']:<11} {stage['status']:<10}", stage["seconds"]
    if stage["status"] != "to do":
        return line.rstrip()
    return f"{line} about " + (f"{seconds / 60:.1f} min" if seconds >= 60 else f"{max(1, round(seconds))} s")
