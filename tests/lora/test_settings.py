"""How fast a run trains, step by step."""

from dataclasses import replace
from itertools import pairwise

import pytest

from factory.lora.settings import learning_rate
from tests.lora.test_loop import SETTINGS


def test_the_learning_rate_rises_then_falls_to_a_fiftieth() -> None:
    settings = replace(SETTINGS, learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(settings, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(1.0)
    assert all(one >= other for one, other in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.02)
    assert learning_rate(replace(settings, warmup=0.0), 0, 0) == 1.0
