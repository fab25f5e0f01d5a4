"""The loss of a batch, and greedy answers in batches that equal those one by one."""

import pytest
import torch

from factory.lora.step import answer_loss, autocast, greedy


def _tokens(num_tokens: int, sure: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states (M, D), an output layer (V, D) and targets; the surer, the smaller the gradient."""
    torch.manual_seed(4)
    head_VD = torch.randn(50, 16)
    targets_M = torch.randint(0, 50, (num_tokens,))
    return head_VD[targets_M] * sure + 0.1 * torch.randn(num_tokens, 16), head_VD, targets_M


def _reference(last_MD, head_VD, targets_M) -> tuple[float, torch.Tensor]:
    last_MD = last_MD.double().requires_grad_()
    logits_MV = last_MD @ head_VD.double().t()
    loss = torch.nn.functional.cross_entropy(logits_MV, targets_M, reduction="sum")
    loss.backward()
    return float(loss.detach()), last_MD.grad


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_the_loss_in_chunks_is_cross_entropy_with_its_gradient(monkeypatch, chunk: int) -> None:
    monkeypatch.setattr("factory.lora.step.LOSS_CHUNK", chunk)
    last_MD, head_VD, targets_M = _tokens(20, 0.2)
    value, gradient = _reference(last_MD, head_VD, targets_M)
    last_MD.requires_grad_()
    loss = answer_loss(last_MD, head_VD, targets_M)
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert (last_MD.grad - gradient).norm() < 1e-5 * gradient.norm()


def test_the_scaled_gradient_of_a_float16_loss_is_close() -> None:
    last_MD, head_VD, targets_M = (x.half() if x.is_floating_point() else x for x in _tokens(40, 0.5))
    _, gradient = _reference(last_MD, head_VD, targets_M)
    last_MD.requires_grad_()
    scale = 2.0**13
    (answer_loss(last_MD, head_VD, targets_M) * scale).backward()
    assert last_MD.grad.dtype == torch.float16
    assert (last_MD.grad.double() / scale - gradient).norm() < 5e-3 * gradient.norm()


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
