"""Low precision where it is asked for, and greedy answers in batches that equal those one by one."""

import pytest
import torch

from factory.lora.step import autocast, greedy


def test_float32_is_not_autocast() -> None:
    one = torch.randn(3, 3)
    with autocast("cpu", torch.float32):
        assert (one @ one).dtype == torch.float32
    with autocast("cpu", torch.bfloat16):
        assert (one @ one).dtype == torch.bfloat16


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
        assert answer.ids == [token for token in ids[len(prompt) :] if token != 2]
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        spoken = [float(logprobs[place - 1, ids[place]]) for place in range(len(prompt), len(ids))]
        assert answer.sureness == pytest.approx(sum(spoken) / len(spoken), abs=1e-4)


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
