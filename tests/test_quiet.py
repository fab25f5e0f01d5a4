"""What libraries may say and show, and the one line that an error becomes."""

import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

from factory import store
from factory.quiet import explain

NOISY = """
from factory.quiet import settle
settle()
import logging, tqdm
from transformers.utils.logging import is_progress_bar_enabled
logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load a kernel")
for _ in tqdm.auto.tqdm(range(3), desc="Converting and de-quantizing GGUF tensors"):
    pass
print(is_progress_bar_enabled())
"""


def test_bars_and_remarks_of_libraries_are_not_shown():
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "Training ran out of memory (CUDA",
        ),
        (MemoryError(), "Training ran out of memory (MemoryError): close other programs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "Training ran out of memory"),
        (
            SafetensorError("header too large"),
            "Training found a damaged file of weights (header too large): delete",
        ),
        (OSError(28, "No space left on device", "a.gguf"), "No space left on device: 'a.gguf' check that"),
        (OSError("odd"), "odd: check that"),
    ],
)
def test_errors_of_libraries_with_a_known_cause_say_what_to_do(error, line):
    said = explain(error, "Training")
    assert said.startswith(line)
    assert "\n" not in said


def test_an_unexpected_error_says_what_it_is_and_where_in_this_project():
    with pytest.raises(TypeError) as caught:
        store.hash_json({1, 2})
    said = explain(caught.value, "It")
    assert said.startswith(
        "unexpected TypeError: Object of type set is not JSON serializable (factory.store:"
    )
    assert said.endswith("please report this; FACTORY_DEBUG=1 shows the traceback")
