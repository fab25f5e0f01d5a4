"""Running out of memory: how it is told from other errors, what is said of it, and how much is used."""

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from factory.errors import TrainError


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


REMEDY = "lower train.max_tokens or train.rank, raise train.first_layer"


@contextmanager
def refused(when: str, remedy: str = REMEDY) -> Iterator[None]:
    """Turn an error of memory in the block into one that says when it ran out and what to do.

    Raises:
        TrainError: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise refusal(when, remedy) from error


def refusal(when: str, remedy: str = REMEDY) -> TrainError:
    """Return the error that says when memory ran out and what to do."""
    return TrainError(f"Memory ran out {when}: close other programs, {remedy}, or name a smaller base")


def release() -> None:
    """Give back what nobody refers to any more, to be called once the error's frames are gone."""
    clear_device_cache(garbage_collection=True)


def used_bytes(device: str) -> int:
    """Return the most of the GPU's memory that was in use so far; on a CPU, what the process has resident now."""
    return int(torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss)
