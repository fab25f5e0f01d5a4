"""The largest training step and the largest batch of questions, tried once, each in a process of its own."""

import io
import logging
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from factory import artifacts, hardware
from factory.backends.models import ModelReference, TorchAnswerer
from factory.chat.template import conversation, encode_example
from factory.errors import FactoryError
from factory.lora import attach, fit, memory
from factory.pipeline import Run
from factory.recipe import Recipe
from factory.rows import Example, Message, write_rows
from factory.weights.base import open_base
from factory.weights.conversations import load_tokenizer

logger = logging.getLogger(__name__)
PROBED_NEW_TOKENS = (
    2  # the first reads the prompts, which takes the most memory; the second uses what was kept
)


def probe_training(recipe: Recipe, tokens: int, rows: int) -> int | None:
    """Return the peak memory in bytes of one training step on that many rows of that many tokens.

    A process that the system kills for want of memory counts as all there is; None when the step failed otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _in_child(take_largest_step, recipe, tokens, rows, Path(folder))


def probe_answers(recipe: Recipe, prompt_tokens: int) -> int | None:
    """Return the peak memory in bytes of answering as many prompts of a length as are read at once, or as above."""
    return _in_child(answer_largest_batch, recipe, prompt_tokens)


def _in_child(measure: Callable[..., int], *arguments: Any) -> int | None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except BrokenProcessPool:
            return hardware.total_memory_bytes()
        except FactoryError as error:
            logger.warning("memory could not be probed: %s", error)
            return None


def take_largest_step(recipe: Recipe, tokens: int, rows: int, out: Path) -> int:
    """Train one step, as the train stage does, and return its peak in bytes.

    Raises:
        FactoryError: training cannot take the step.
    """
    changes: dict[str, Any] = {
        "epochs": 1,
        "recall_every": 1,
        "batch_size": rows,
        "micro_batch": rows,
        "max_tokens": tokens,
    }
    changes |= {"distill": 0.0, "preferences": None, "continue_from": None}
    settings = recipe.train.model_copy(update=changes)
    run = Run(recipe.model_copy(update={"train": settings}), out, lambda line: None)

    def write_dataset(work: Path) -> dict[str, Any]:
        messages = largest_row(run.base.folder, tokens, recipe.system)
        write_rows(
            work / "train.jsonl",
            [Example(id=str(number), form="probe", messages=messages, facts=()) for number in range(rows)],
        )
        write_rows(work / "valid.jsonl", [])
        return {}

    artifacts.build(out / "dataset", kind="dataset", code_version=0, config={}, inputs={}, make=write_dataset)
    with redirect_stderr(io.StringIO()):  # this is not the training that a bar is meant for
        outcome = run.execute(only="train")
    if outcome.error:
        raise outcome.error
    record = artifacts.read_record(out / "adapter")
    return int(record.counts.get("peak_gpu_memory_bytes", record.peak_memory_bytes))


def largest_row(base: Path, max_tokens: int, system: str) -> tuple[Message, ...]:
    """Return a conversation of up to `max_tokens`, a quarter of them in the answer."""
    tokenizer, words = load_tokenizer(base), max_tokens
    while True:
        messages = conversation("the " * (3 * words // 4), "the " * (words // 4), system)
        over = len(encode_example(tokenizer, messages)[0]) - max_tokens
        if over <= 0 or words <= over:
            return messages
        words -= over


def answer_largest_batch(recipe: Recipe, prompt_tokens: int) -> int:
    """Ask the base as many prompts of a length as are read at once and return the peak in bytes.

    Raises:
        FactoryError: the base cannot be opened.
    """
    device = attach.pick_device()
    with hardware.watch_memory() as watch:
        folder = open_base(recipe.base).folder
        question = largest_row(folder, 4 * prompt_tokens // 3, "")[0].content
        with TorchAnswerer(ModelReference("base", recipe.base, None, base_folder=folder), "") as model:
            model.answer([question] * memory.prompts_at_once(prompt_tokens), PROBED_NEW_TOKENS)
    return fit.device_peak(device).get("peak_gpu_memory_bytes", watch.peak_bytes)
