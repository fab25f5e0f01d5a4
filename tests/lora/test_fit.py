"""How many rows at once fit, and what is said where not even one does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.lora import fit
from factory.lora.memory import Load
from tests.lora.shapes import LLAMA_8B, QWEN_1B, SMOLLM2, dense, loads, lora, setups

GIB = 1 << 30


@given(setups, loads, st.integers(1, 64), st.integers(0, 64 * GIB))
@settings(max_examples=200, deadline=None)
def test_the_rows_at_once_fit_where_one_does_and_are_never_more_than_a_batch(
    setup, load, batch_size, available
):
    choice = fit.plan_training(setup, load, batch_size, available)
    one = fit.training_peak(setup, load, 1).total
    assert 1 <= choice.micro_batch <= batch_size
    assert choice.parts == fit.training_peak(setup, load, choice.micro_batch)
    assert choice.fits == (choice.parts.total <= available) == (one <= available)


@pytest.mark.parametrize(
    ("available", "rows"),
    [(1000, 10), (110, 10), (109, 5), (60, 5), (59, 4), (49, 3), (39, 2), (20, 1), (19, None)],
)
def test_a_batch_is_split_evenly_into_the_fewest_parts(available, rows):
    assert fit.choose_micro_batch(lambda rows: 10 + 10 * rows, available, 10) == rows


def test_rows_that_were_asked_for_stay_and_are_said_not_to_fit():
    setup = lora(SMOLLM2, 32)
    choice = fit.plan_training(setup, Load(256, 64), 32, 3.5 * GIB, micro_batch=16)
    assert (choice.micro_batch, choice.fits) == (16, False)
    assert fit.plan_training(setup, Load(256, 64), 8, 64 * GIB, micro_batch=16).micro_batch == 8


def test_a_t4_holds_the_recipe_made_for_it_and_a_batch_of_a_larger_base_in_parts():
    """A T4 has 15 GiB; NF4 bases of 0.5 to 4 billion parameters are what people train on it."""
    load, available = Load(256, 64), 15 * GIB
    nf4 = {"dtype_bytes": 2, "quantization": "nf4", "cuda": True}
    small = lora(QWEN_1B, 16, **nf4)
    choice = fit.plan_training(small, load, 16, available)
    assert choice.fits
    assert choice.micro_batch >= 8
    large = lora(dense(36, 3072, 8192, 24, 3072, 1024, 128_256), 16, **nf4)
    choice = fit.plan_training(large, Load(1024, 256), 16, available)
    assert choice.fits
    assert 1 <= choice.micro_batch < 16
    assert not fit.plan_training(lora(LLAMA_8B, 16, dtype_bytes=2, cuda=True), load, 16, available).fits
