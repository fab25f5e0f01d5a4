"""A model cut in two computes what the whole one does, forward and backward."""

from pathlib import Path

import pytest
import torch

from factory.errors import BaseModelError
from factory.lora import attach
from factory.lora.batches import collate
from factory.lora.split import SplitModel
from tests.tiny import make_tiny_base


@pytest.mark.parametrize("first_layer", [0, 1, 2])
@pytest.mark.parametrize("wrapped", [True, False])
def test_upper_of_lower_is_the_whole_model(new_model, encoded, first_layer: int, wrapped: bool) -> None:
    model = new_model(trained=True).eval()
    causal = model.get_base_model()
    batch = collate(encoded[:6], 2)
    split, where = SplitModel(model if wrapped else causal, first_layer), {"attention_mask": batch.mask}
    with torch.no_grad():
        whole = causal.model(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        parts = split.upper(split.lower(batch.ids, where), where)
        assert torch.equal(split.whole(batch.ids, where), whole)
    kept = batch.mask.bool()
    assert (parts - whole)[kept].abs().max() < 1e-5
    assert whole[kept].abs().max() > 0.1


def test_the_model_is_whole_again_afterwards_also_after_an_error(new_model, encoded) -> None:
    model = new_model()
    core = model.get_base_model().model
    before = list(core.layers), core.norm
    split = SplitModel(model, 1)
    batch = collate(encoded[:2], 2)
    split.lower(batch.ids, {"attention_mask": batch.mask})
    with pytest.raises(RuntimeError):
        split.upper(torch.zeros(1, 3, 7), {"attention_mask": torch.ones(1, 3)})
    assert (list(core.layers), core.norm) == before


def test_the_lower_part_carries_no_gradient(new_model, encoded) -> None:
    batch = collate(encoded[:2], 2)
    for first_layer in (0, 1):
        assert not SplitModel(new_model(first_layer), first_layer).lower(batch.ids, {}).requires_grad


def test_each_layer_keeps_its_own_kind_of_attention(tmp_path: Path, encoded) -> None:
    model = attach.load_model(make_tiny_base(tmp_path / "base", "qwen3"), torch.float32, "cpu").eval()
    kinds = ["full_attention", "sliding_attention"]
    model.config.layer_types, model.config.sliding_window = kinds, 3
    model.model.has_sliding_layers = True
    model.model.layers[1].self_attn.sliding_window = 3
    ids, where = torch.tensor([encoded[0].ids]), {"attention_mask": torch.ones(1, len(encoded[0].ids))}
    split = SplitModel(model, 1)
    with torch.no_grad():
        whole = split.whole(ids, where)
        assert (split.upper(split.lower(ids, where), where) - whole).abs().max() < 1e-5
        model.config.layer_types = ["full_attention"] * 2
        assert (split.whole(ids, where) - whole).abs().max() > 1e-3, "the window must matter"


def test_a_base_that_changes_its_logits_is_refused(new_model) -> None:
    model = new_model()
    model.get_base_model().config.final_logit_softcapping = 30.0
    with pytest.raises(BaseModelError, match=r"final_logit_softcapping=30\.0"):
        SplitModel(model, 0)
