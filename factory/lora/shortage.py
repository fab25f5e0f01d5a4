"""Running out of memory: how it is told from other errors, and how much is in use. Knows no model."""

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


def ran_out(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, Exception) and should_reduce_batch_size(error)


def release() -> None:
    """Give back what nobody refers to any more, to be called once the error's frames are gone."""
    clear_device_cache(garbage_collection=True)


def used_bytes(device: str) -> int:
    """Return the most of the GPU's memory that was in use so far; on a CPU, what the process has resident now."""
    return int(torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss)
