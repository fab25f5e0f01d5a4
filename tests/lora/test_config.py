"""How many epochs a training takes where the recipe does not say."""

import pytest

from factory.lora.config import TrainConfig, choose_epochs


@pytest.mark.parametrize(("tokens", "epochs"), [(1, 40), (25_000, 30), (75_000, 10), (1_000_000, 8), (0, 40)])
def test_without_epochs_small_datasets_are_seen_more_often(tokens: int, epochs: int) -> None:
    assert choose_epochs(TrainConfig(), tokens) == epochs
    assert choose_epochs(TrainConfig(epochs=3), tokens) == 3
