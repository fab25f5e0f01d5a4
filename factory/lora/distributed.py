"""Several processes that train one adapter: which one this is, and what they tell each other.

`accelerate launch` and `torchrun` start them and leave in the environment who is who. Of a process alone nothing here
asks anything. Knows processes, gradients and where frozen weights lie; not rows, steps or stages.
"""

import logging
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from factory.errors import TrainError

PATIENCE = timedelta(days=7)  # the others wait while the main process reads documents or measures recall


def join(device: str) -> None:
    """Meet the processes that a launcher started beside this one; each takes a GPU of its own if there are any.

    Those that are not the main one log warnings only.
    """
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    if not is_main():
        logging.getLogger("factory").setLevel(logging.WARNING)


def leave() -> None:
    """Part from the other processes; from here on this one is alone."""
    if num_processes() > 1:
        torch.distributed.destroy_process_group()


def num_processes() -> int:
    """Return how many processes have joined, 1 for one alone."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 for the main one and for one alone."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def is_main() -> bool:
    """Tell whether this process writes, reports and measures."""
    return rank() == 0


def is_sharded() -> bool:
    """Tell whether frozen weights are spread over the processes, as `accelerate launch --use_fsdp` asks for."""
    return num_processes() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in {"1", "true"}


def is_offloaded() -> bool:
    """Tell whether each process keeps its share of spread weights in main memory (`--fsdp_offload_params true`)."""
    return is_sharded() and os.environ.get("FSDP_OFFLOAD_PARAMS", "").lower() in {"1", "true"}


def from_main(value: Any = None) -> Any:
    """Return the main process's value in every process, which all have to call."""
    if num_processes() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def any_of(flag: bool) -> bool:
    """Tell whether any process says yes; all have to call."""
    if num_processes() == 1:
        return flag
    told = torch.tensor(float(flag))
    torch.distributed.all_reduce(told)
    return bool(told)


def in_all(check: Callable[[], Any]) -> Any:
    """Return what a check finds, which all processes have to call alike; where one fails, the others fail, too.

    With spread weights they compute the same, so that all fail by themselves: one that does cannot ask the others, who
    may wait for it inside a layer.

    Raises:
        TrainError: it failed in another process.
    """
    failure: Exception | None = None
    try:
        found = check()
    except Exception as error:
        if is_sharded():
            raise
        failure = error
    if any_of(failure is not None):
        raise failure or TrainError(
            "A check before the first step failed in another process: do what that process's message says"
        )
    return found


def total(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of all processes' tensors, which lie on the CPU and have one shape; all have to call."""
    if num_processes() == 1:
        return values
    told = values.clone()
    torch.distributed.all_reduce(told)
    return told


def sum_gradients(parameters: Sequence[torch.nn.Parameter], loss: torch.Tensor) -> float:
    """Add up gradients over all processes, in place, and return the sum of their losses.

    Losses are to be sums divided by what all processes together have, so that nothing is averaged here.
    """
    if num_processes() == 1:
        return float(loss)
    gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in parameters]
    flat = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
    torch.distributed.all_reduce(flat)
    parts = flat[1:].split([gradient.numel() for gradient in gradients])
    for value, part in zip(parameters, parts, strict=True):
        value.grad = part.view_as(value)
    return float(flat[0])


def shard(model: Any, device: str) -> Any:
    """Return a model with the frozen weights of its layers spread over the processes (FSDP2), the rest on a device.

    Shares of them stay in main memory if that is asked for, and a layer's come to the device to be computed with.
    Adapters are a percent of the weights and stay whole in every process, so that optimizer, clipping and checkpoints
    are those of one process. Each layer comes to the device by itself: the whole model never has to fit there.
    """
    mesh = init_device_mesh(device, (num_processes(),))
    core = model.get_base_model().model
    trained = {value for value in model.parameters() if value.requires_grad}
    policy = CPUOffloadPolicy(pin_memory=device == "cuda") if is_offloaded() else OffloadPolicy()
    for layer in core.layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained, offload_policy=policy)
    fully_shard(core, mesh=mesh, ignored_params=set(core.parameters()))  # only to be the layers' root
    model._apply(
        lambda value: value if isinstance(value, DTensor) else value.to(device)
    )  # shares are in place
    with torch.no_grad():  # the layers learn that they belong together: later passes see a part of them
        core(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)
    return model
