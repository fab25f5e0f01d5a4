"""How many epochs a training takes where the recipe does not say."""

import pytest

from factory.lora.config import TrainConfig, choose_epochs


@pytest.mark.parametrize(("tokens", "epochs"), [(1, 24), (40_000, 19), (75_000, 10), (1_000_000, 8), (0, 24)])
def test_without_epochs_small_datasets_are_seen_more_often(tokens: int, epochs: int) -> None:
    assert choose_epochs(TrainConfig(), tokens) == epochs
    assert choose_epochs(TrainConfig(epochs=3), tokens) == 3
