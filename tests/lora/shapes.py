"""Shapes of bases that people train, what LoRA on them keeps, and arbitrary ones for properties of predictions."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from factory.lora.memory import Load, Setup
from factory.lora.setup import ATTENDED, SHARED
from factory.lora.shape import Shape
from tests.lora.conftest import TARGETS


def dense(*sizes: int, tied: bool = True) -> Shape:
    """Return a shape without experts of layers, width, inner, heads, queries, keys and vocabulary."""
    shape = Shape(*sizes, parameters=0)
    return replace(
        shape, parameters=shape.layer_parameters + shape.vocabulary * shape.width * (1 if tied else 2)
    )


SMOLLM2 = dense(30, 576, 1536, 9, 576, 192, 49152)
QWEN_1B = dense(28, 1536, 8960, 12, 1536, 256, 151_936)
LLAMA_1B = dense(16, 2048, 8192, 32, 2048, 512, 128_256)
LLAMA_3B = dense(28, 3072, 8192, 24, 3072, 1024, 128_256)
LLAMA_8B = dense(32, 4096, 14336, 32, 4096, 1024, 128_256, tied=False)


def lora(
    shape: Shape,
    rank: int,
    *,
    first_layer: int = 0,
    dtype_bytes: int = 4,
    targets: tuple[str, ...] = TARGETS,
    **others: Any,
) -> Setup:
    """Return what LoRA on the same modules of every layer keeps."""
    modules = {
        "q_proj": (shape.width, shape.queries), "k_proj": (shape.width, shape.keys),
        "v_proj": (shape.width, shape.keys), "o_proj": (shape.queries, shape.width),
        "gate_proj": (shape.width, shape.inner), "up_proj": (shape.width, shape.inner),
        "down_proj": (shape.inner, shape.width),
    }  # fmt: skip
    layers, sizes = shape.layers - first_layer, [modules[name] for name in targets]
    read = {name: sizes[0] for name, sizes in modules.items() if name in targets}
    if dtype_bytes == 4 and not others.get("dropout", False):  # what several read is one tensor
        read = {SHARED.get(name, name): size for name, size in read.items() if name != ATTENDED}
    plain = {"cuda", "dropout", "checkpointing"} & {name for name, value in others.items() if value}
    quantized = others.get("quantization", "none") != "none"
    return Setup(
        shape,
        first_layer,
        trained=layers * rank * sum(map(sum, sizes)),
        inputs=layers * sum(read.values()),
        ranks=layers * rank * len(targets),
        dtype_bytes=dtype_bytes,
        fused=not plain and not quantized,
        **others,
    )


numbers = st.integers(1, 6)
shapes = st.builds(
    lambda layers, width, inner, *rest: dense(layers, 64 * width, 256 * inner, 4, 256, 128, *rest),
    st.integers(2, 40), numbers, numbers, st.integers(300, 150_000),
)  # fmt: skip
adapters = st.fixed_dictionaries(
    {
        "targets": st.sampled_from([TARGETS, TARGETS[:2]]), "first_layer": st.integers(0, 1),
        "dtype_bytes": st.sampled_from([2, 4]), "dropout": st.booleans(), "checkpointing": st.booleans(),
        "quantization": st.sampled_from(["none", "nf4", "int8"]), "cuda": st.booleans(),
    }
)  # fmt: skip
setups = st.builds(
    lambda shape, rank, others: lora(shape, rank, **others), shapes, st.integers(1, 256), adapters
)
loads = st.builds(
    Load, tokens=st.integers(16, 2000), labels=st.integers(1, 16), kept_tokens=st.integers(0, 10**6),
    together=st.integers(1, 2),
)  # fmt: skip
