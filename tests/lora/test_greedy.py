"""Greedy answers in batches are those one by one, and no setting of the base's changes them."""

import pytest
import torch

from factory.errors import BaseModelError
from factory.lora.greedy import find_stop_ids, greedy


@pytest.mark.parametrize("batch_size", [1, 3, 25])
def test_greedy_answers_are_those_of_the_highest_logits(new_model, encoded, batch_size: int) -> None:
    model = new_model(trained=True).eval()
    prompts = [row.ids[: 5 + 3 * number] for number, row in enumerate(encoded[:5])]
    made = greedy(model, prompts, max_tokens=6, stop_ids={2}, pad_id=2, device="cpu", batch_size=batch_size)
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
    assert greedy(new_model(), [], max_tokens=3, stop_ids={2}, pad_id=2, device="cpu", batch_size=4) == []


def test_long_prompts_are_answered_in_smaller_batches_with_the_same_answers(
    new_model, encoded, monkeypatch
) -> None:
    model = new_model(trained=True).eval()
    prompts = [row.ids[: 4 + number] for number, row in enumerate(encoded[:6])]
    options = {"max_tokens": 4, "stop_ids": {2}, "pad_id": 2, "device": "cpu", "batch_size": 6}
    whole = greedy(model, prompts, **options)
    sizes, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **given: sizes.append(given["input_ids"].numel()) or forward(**given)
    )
    monkeypatch.setattr("factory.lora.step.PROMPT_TOKENS", 16)
    assert greedy(model, prompts, **options) == whole
    assert max(sizes) <= 16
    assert sum(size > 6 for size in sizes) == 4  # prompts; answers are read a token each


def test_what_the_base_says_of_generation_changes_no_answer(new_model, encoded) -> None:
    model = new_model(trained=True).eval()
    prompts = [row.ids[:8] for row in encoded[:4]]
    options = {"max_tokens": 12, "stop_ids": {2}, "pad_id": 2, "device": "cpu", "batch_size": 4}
    plain = greedy(model, prompts, **options)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.suppress_tokens = [plain[0].ids[0]]
    assert greedy(model, prompts, **options) == plain


def test_answers_that_have_ended_are_not_computed_on(new_model, encoded, monkeypatch) -> None:
    model = new_model(trained=True).eval()
    prompts = [row.ids[:8] for row in encoded[:4]]
    options = {"max_tokens": 12, "pad_id": 2, "device": "cpu", "batch_size": 4}
    first = greedy(model, prompts, stop_ids=(), **options)
    stop = first[0].ids[1]
    rows, forward = [], model.forward
    monkeypatch.setattr(
        model, "forward", lambda **given: rows.append(len(given["input_ids"])) or forward(**given)
    )
    cut = greedy(model, prompts, stop_ids={stop}, **options)
    expected = [
        answer.ids[: answer.ids.index(stop)] if stop in answer.ids else answer.ids for answer in first
    ]
    assert [answer.ids for answer in cut] == expected
    assert rows[0] == 4
    assert rows[-1] < 4


def test_answers_end_at_every_token_that_the_base_names(new_model, tokenizer) -> None:
    model = new_model()
    for named, expected in ((None, {2}), (7, {2, 7}), ([0, 7], {0, 2, 7})):
        model.generation_config.eos_token_id = named
        assert find_stop_ids(model, tokenizer) == expected


def test_numbers_that_overflow_are_no_answer(new_model, encoded) -> None:
    model = new_model().eval()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.fill_(float("inf"))
    with pytest.raises(BaseModelError, match=r"float32 are not finite"):
        greedy(model, [encoded[0].ids], max_tokens=3, stop_ids={2}, pad_id=2, device="cpu", batch_size=1)
