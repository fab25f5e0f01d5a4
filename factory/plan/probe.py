"""The largest training step and the largest batch of questions, tried once, each in a process of its own."""

import logging
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory import hardware
from factory.backends.models import ModelReference, TorchAnswerer
from factory.chat.template import conversation, encode_example
from factory.errors import FactoryError
from factory.lora import attach, fit, memory
from factory.lora.adapter import first_trained_layer
from factory.lora.batches import IGNORED, EncodedRow
from factory.lora.loop import Loop
from factory.lora.opening import open_model
from factory.lora.settings import LoopSettings
from factory.quiet import settle
from factory.recipe import Recipe
from factory.rows import Message
from factory.stages.train import GENERAL_TOKENS, adapter_folder
from factory.weights.base import open_base
from factory.weights.conversations import load_tokenizer

logger = logging.getLogger(__name__)
PROBED_NEW_TOKENS = (
    2  # the first reads the prompts, which takes the most memory; the second uses what was kept
)


def probe_training(recipe: Recipe, tokens: int, rows: int, shared: int) -> int | None:
    """Return the peak memory in bytes of one training step on that many rows of that many tokens, `shared` ones alike.

    A process that the system kills for want of memory counts as all there is; None when the step failed otherwise.
    """
    return _in_child(take_largest_step, recipe, tokens, rows, shared)


def probe_answers(recipe: Recipe, prompt_tokens: int) -> int | None:
    """Return the peak memory in bytes of answering as many prompts of a length as are read at once, or as above."""
    return _in_child(answer_largest_batch, recipe, prompt_tokens)


def _in_child(measure: Callable[..., int], *arguments: Any) -> int | None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=settle) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except BrokenProcessPool:
            return hardware.total_memory_bytes()
        # Whatever a device or a model's own code raises: a plan is made without it.
        except Exception as error:
            logger.warning(
                "memory could not be probed: %s",
                str(error) or type(error).__name__,
                exc_info=not isinstance(error, FactoryError),
            )
            return None


def take_largest_step(recipe: Recipe, tokens: int, rows: int, shared: int) -> int:
    """Train on that many rows twice, as moments are there from the second step on, and return the peak in bytes.

    How an adapter begins takes time and no memory that counts: it is left out.

    Raises:
        FactoryError: training cannot take the step.
    """
    changes = {"batch_size": rows, "init": "default", "warmup": 0.0}
    config, base = recipe.train.model_copy(update=changes), open_base(recipe.base)
    device = attach.pick_device() if config.device == "auto" else config.device
    dtype = attach.pick_dtype(config.precision, device)
    with hardware.watch_memory() as watch, tempfile.TemporaryDirectory() as folder:
        tokenizer = attach.load_tokenizer(base.folder)
        ids, labels = encode_example(tokenizer, largest_row(base.folder, tokens, recipe.system))
        labels[: shared + 1] = [IGNORED] * (shared + 1)
        encoded = [  # the token behind what is shared is each row's own
            EncodedRow((*ids[:shared], number, *ids[shared + 1 :]), tuple(labels), str(number))
            for number in range(rows)
        ]
        last = slice(-GENERAL_TOKENS, None)  # where the labels are
        general = [replace(row, ids=row.ids[last], labels=row.labels[last]) for row in encoded[:4]]
        continued = adapter_folder(config.continue_from) if config.continue_from else None
        opened = open_model(config, base.folder, base.name, encoded, device, dtype, general, continued)
        pad = tokenizer.eos_token_id
        settings = LoopSettings.of(config, 2, rows, seed=0, pad_id=pad, device=device, dtype=dtype)
        first_layer = first_trained_layer(opened.model)
        Loop(
            opened.model,
            first_layer,
            encoded,
            settings,
            Path(folder),
            lambda: 0.0,
            lambda row: None,
            whitening=opened.whitening,
            penalty=opened.penalty,
        ).run()
    return _peak(device, watch)


def _peak(device: str, watch: hardware.MemoryWatch) -> int:
    return fit.device_peak(device).get("peak_gpu_memory_bytes", watch.peak_bytes)


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
    return _peak(device, watch)
