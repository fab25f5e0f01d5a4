"""Running out of memory is told from every other error."""

import pytest
import torch

from factory.lora import shortage


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 12 (…)"
        ),
    ],
)
def test_errors_of_memory_are_known(error: Exception) -> None:
    assert shortage.ran_out(error)


def test_the_real_error_of_the_cpu_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 56)
    assert shortage.ran_out(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")]
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not shortage.ran_out(error)


def test_the_memory_in_use_is_that_of_this_process() -> None:
    assert 50e6 < shortage.used_bytes("cpu") < 1e12
