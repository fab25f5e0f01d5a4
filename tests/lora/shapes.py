"""Shapes of bases that people train, and arbitrary ones for properties of predictions."""

from hypothesis import strategies as st

from factory.lora.memory import Load, Setup
from factory.lora.shape import Shape
from tests.lora.conftest import TARGETS

SMOLLM2 = Shape(30, 576, 1536, 9, 576, 192, 49152, tied=True, llama=True)
QWEN_1B = Shape(28, 1536, 8960, 12, 1536, 256, 151_936, tied=True, llama=True)
LLAMA_1B = Shape(16, 2048, 8192, 32, 2048, 512, 128_256, tied=True, llama=False)
LLAMA_3B = Shape(28, 3072, 8192, 24, 3072, 1024, 128_256, tied=True, llama=False)
LLAMA_8B = Shape(32, 4096, 14336, 32, 4096, 1024, 128_256, tied=False, llama=False)

numbers = st.integers(1, 6)
setups = st.builds(
    Setup,
    shape=st.builds(
        Shape, layers=st.integers(2, 40), width=numbers.map(lambda n: 64 * n), inner=numbers.map(lambda n: 256 * n),
        heads=st.just(4), queries=st.just(256), keys=st.just(128), vocabulary=st.integers(300, 150_000),
        tied=st.booleans(), llama=st.booleans(),
    ),
    rank=st.integers(1, 256), targets=st.sampled_from([TARGETS, TARGETS[:2]]), first_layer=st.integers(0, 1),
    dtype_bytes=st.sampled_from([2, 4]), dropout=st.booleans(),
    quantization=st.sampled_from(["none", "nf4", "int8"]), cuda=st.booleans(),
)  # fmt: skip
loads = st.builds(
    Load, tokens=st.integers(16, 2000), labels=st.integers(1, 16), kept_tokens=st.integers(0, 10**6)
)
