"""The loss of a batch, and greedy answers in batches that equal those one by one."""

import pytest
import torch

from factory.lora.batches import collate, micro_batches
from factory.lora.split import SplitModel
from factory.lora.step import autocast, greedy, loss_of


def _loss(split: SplitModel, batch) -> torch.Tensor:
    return loss_of(split, split.lower(batch.ids, batch.mask), batch)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_loss_does_not_depend_on_how_a_batch_is_split(new_model, encoded, size: int) -> None:
    split = SplitModel(new_model(trained=True), 0)
    with torch.no_grad():
        whole = float(_loss(split, collate(encoded[:9], 2)))
        parts = [
            _loss(split, collate([encoded[i] for i in part], 2))
            for part in micro_batches(list(range(9)), size)
        ]
    assert float(sum(parts)) == pytest.approx(whole, rel=1e-5)


def test_padding_and_other_rows_change_nothing(new_model, encoded) -> None:
    split = SplitModel(new_model(trained=True), 0)
    longest = max(encoded, key=lambda row: len(row.ids))
    with torch.no_grad():
        alone = [float(_loss(split, collate([row], 2))) for row in (encoded[0], longest)]
        both = float(_loss(split, collate([encoded[0], longest], 2)))
    assert both == pytest.approx(sum(alone), rel=1e-5)


def test_low_precision_is_close_and_float32_untouched(new_model, encoded) -> None:
    split, batch = SplitModel(new_model(trained=True), 0), collate(encoded[:4], 2)
    with torch.no_grad():
        exact = float(_loss(split, batch))
        with autocast("cpu", torch.float32):
            assert float(_loss(split, batch)) == exact
        with autocast("cpu", torch.bfloat16):
            rough = float(_loss(split, batch))
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("batch_size", [1, 3, 25])
def test_greedy_answers_are_those_of_the_highest_logits(new_model, encoded, batch_size: int) -> None:
    model = new_model(trained=True).eval()
    prompts = [row.ids[: 5 + 3 * number] for number, row in enumerate(encoded[:5])]
    made = greedy(model, prompts, max_tokens=6, stop_id=2, pad_id=2, device="cpu", batch_size=batch_size)
    for prompt, answer in zip(prompts, made, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + 6:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == 2:
                    break
        assert answer == [token for token in ids[len(prompt) :] if token != 2]


def test_nothing_is_generated_for_no_prompts(new_model) -> None:
    assert greedy(new_model(), [], max_tokens=3, stop_id=2, pad_id=2, device="cpu", batch_size=4) == []


def test_long_prompts_are_answered_in_smaller_batches_with_the_same_answers(
    new_model, encoded, monkeypatch
) -> None:
    model = new_model(trained=True).eval()
    prompts = [row.ids[: 4 + number] for number, row in enumerate(encoded[:6])]
    options = {"max_tokens": 4, "stop_id": 2, "pad_id": 2, "device": "cpu", "batch_size": 6}
    whole = greedy(model, prompts, **options)
    widths, generate = [], model.generate
    monkeypatch.setattr(
        model, "generate", lambda **given: widths.append(given["input_ids"].numel()) or generate(**given)
    )
    monkeypatch.setattr("factory.lora.step.PROMPT_TOKENS", 16)
    assert greedy(model, prompts, **options) == whole
    assert len(widths) == 4
    assert max(widths) <= 16
