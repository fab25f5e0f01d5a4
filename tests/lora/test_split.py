"""A model cut in two computes what the whole one does, forward and backward."""

import pytest
import torch

from factory.lora.batches import IGNORED, collate
from factory.lora.split import SplitModel
from factory.lora.step import loss_of


@pytest.mark.parametrize("first_layer", [0, 1, 2])
@pytest.mark.parametrize("wrapped", [True, False])
def test_upper_of_lower_is_the_whole_model(new_model, encoded, first_layer: int, wrapped: bool) -> None:
    model = new_model(trained=True).eval()
    causal = model.get_base_model()
    batch = collate(encoded[:6], 2)
    split = SplitModel(model if wrapped else causal, first_layer)
    with torch.no_grad():
        whole = causal.model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        parts = split.upper(split.lower(batch.ids, batch.mask), batch.mask)
    kept = batch.mask.bool()
    assert (parts - whole)[kept].abs().max() < 1e-5
    assert whole[kept].abs().max() > 0.1


@pytest.mark.parametrize("first_layer", [0, 1])
def test_gradients_are_those_of_the_plain_forward_pass(new_model, encoded, first_layer: int) -> None:
    batch = collate(encoded[:6], 2)
    split_model, plain = new_model(first_layer, trained=True), new_model(first_layer, trained=True)
    split = SplitModel(split_model, first_layer)
    loss = loss_of(split, split.lower(batch.ids, batch.mask), batch)
    loss.backward()
    logits = plain(input_ids=batch.ids, attention_mask=batch.mask).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]),
        batch.labels[:, 1:].reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
    )
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: value.grad for name, value in plain.named_parameters() if value.requires_grad}
    assert len(gradients) == 14 * (2 - first_layer)
    for name, value in split_model.named_parameters():
        if value.requires_grad:
            assert (value.grad - gradients[name]).norm() <= 1e-5 * gradients[name].norm(), name
            assert gradients[name].norm() > 0


def test_the_model_is_whole_again_afterwards_also_after_an_error(new_model, encoded) -> None:
    model = new_model()
    core = model.get_base_model().model
    before = list(core.layers), core.norm
    split = SplitModel(model, 1)
    batch = collate(encoded[:2], 2)
    split.lower(batch.ids, batch.mask)
    with pytest.raises(RuntimeError):
        split.upper(torch.zeros(1, 3, 7), torch.ones(1, 3))
    assert (list(core.layers), core.norm) == before


def test_the_lower_part_carries_no_gradient(new_model, encoded) -> None:
    batch = collate(encoded[:2], 2)
    for first_layer in (0, 1):
        assert not SplitModel(new_model(first_layer), first_layer).lower(batch.ids, batch.mask).requires_grad
