"""How many epochs and what rank a training takes where the recipe does not say."""

import pytest

from factory.lora.config import TrainConfig, choose_epochs, choose_rank


@pytest.mark.parametrize(("tokens", "epochs"), [(1, 40), (20_000, 30), (60_000, 10), (1_000_000, 8), (0, 40)])
def test_without_epochs_small_datasets_are_seen_more_often(tokens: int, epochs: int) -> None:
    assert choose_epochs(TrainConfig(), tokens) == epochs
    assert choose_epochs(TrainConfig(epochs=3), tokens) == 3


@pytest.mark.parametrize(
    ("given", "facts", "rank", "rate"),
    [
        ({}, 4_999, 32, 1.5e-3),
        ({}, 5_000, 128, 0.75e-3),
        ({"learning_rate": 2e-4}, 5_000, 128, 2e-4),
        ({"rank": 16}, 5_000, 16, 1.5e-3),
        ({"rank": 32}, 5_000, 32, 1.5e-3),
    ],
)
def test_many_facts_get_a_larger_rank_and_a_lower_rate_unless_these_are_given(
    given: dict[str, float], facts: int, rank: int, rate: float
) -> None:
    chosen = choose_rank(TrainConfig.model_validate(given), facts)
    assert (chosen.rank, chosen.learning_rate) == (rank, pytest.approx(rate))
