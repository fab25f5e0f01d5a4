"""Losses of single tokens: what autograd gives for the formulas written out, a chunk at a time."""

import pytest
import torch
from torch.nn import functional

from factory.lora import losses
from factory.lora.losses import SoftTargets, join, losses_of_logits, no_targets, token_losses, top_probs

M, D, V, K = 40, 16, 50, 6


def _close(found: torch.Tensor, expected: torch.Tensor, limit: float = 1e-5) -> bool:
    return (found - expected).norm().item() <= limit * expected.norm().item()


@pytest.fixture
def given():
    """Hidden states, an output layer, targets, and what a random teacher says, with weights from 0 to 1."""
    torch.manual_seed(0)
    last, head = torch.randn(M, D, requires_grad=True), torch.randn(V, D)
    ids, probs = top_probs(2 * torch.randn(M, V), K)
    return last, head, torch.randint(V, (M,)), SoftTargets(ids, probs, torch.rand(M).round(decimals=1))


def _reference(last, head, targets, soft) -> torch.Tensor:
    """The mixture in float64, with the others' probability as what the kept ones lack to 1."""
    logits = last.double() @ head.double().t()
    student = logits.softmax(-1).gather(1, soft.ids)
    student = torch.cat([student, 1 - student.sum(-1, keepdim=True)], dim=1)
    teacher = torch.cat([soft.probs.double(), 1 - soft.probs.double().sum(-1, keepdim=True)], dim=1)
    divergence = functional.kl_div(student.log(), teacher, reduction="none").sum(-1)
    hard = functional.cross_entropy(logits, targets, reduction="none")
    return (1 - soft.weights) * hard + soft.weights * divergence


@pytest.mark.parametrize("chunk", [7, 256])
def test_the_mixture_and_its_gradient_are_autograds(given, monkeypatch, chunk: int) -> None:
    last, head, targets, soft = given
    scale = torch.rand(M)
    expected = _reference(last, head, targets, soft)
    (gradient,) = torch.autograd.grad((expected * scale).sum(), last)
    monkeypatch.setattr(losses, "LOSS_CHUNK", chunk)
    found = token_losses(last, head, targets, soft)
    (found * scale).sum().backward()
    assert _close(found.double(), expected)
    assert _close(last.grad, gradient)


def test_losses_of_logits_are_the_same(given) -> None:
    last, head, targets, soft = given
    for chosen in (soft, None):
        one, other = last.detach().clone().requires_grad_(), last.detach().clone().requires_grad_()
        fused = token_losses(one, head, targets, chosen)
        plain = losses_of_logits(other @ head.t(), targets, chosen)
        fused.sum().backward()
        plain.sum().backward()
        assert _close(fused, plain)
        assert _close(one.grad, other.grad)


def test_without_a_teacher_or_with_one_that_never_speaks_it_is_the_cross_entropy(given) -> None:
    last, head, targets, _ = given
    expected = functional.cross_entropy(last @ head.t(), targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), last)
    silent = no_targets(M, K).to(last.device)
    for chosen in (None, silent):
        found = token_losses(last, head, targets, chosen)
        (grad,) = torch.autograd.grad(found.sum(), last)
        assert _close(found, expected)
        assert _close(grad, gradient)


def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient(given) -> None:
    last, head, targets, _ = given
    ids, probs = top_probs((last @ head.t()).detach(), K)
    loss = token_losses(last, head, targets, SoftTargets(ids, probs, torch.ones(M))).sum()
    loss.backward()
    assert abs(loss.item()) < 1e-4
    assert last.grad.abs().max().item() < 1e-5


def test_a_certain_teacher_and_a_student_certain_of_something_else_give_numbers() -> None:
    last = (100 * torch.eye(4, 4)).requires_grad_()
    head = torch.eye(4)
    soft = SoftTargets(torch.tensor([[1, 2]] * 4), torch.tensor([[1.0, 0.0]] * 4), torch.ones(4))
    found = token_losses(last, head, torch.zeros(4, dtype=torch.long), soft)
    found.sum().backward()
    assert found.detach().tolist() == pytest.approx([100.0, 0.0, 100.0, 100.0], abs=1e-3)
    assert torch.isfinite(last.grad).all()


def test_never_more_rows_of_logits_than_a_chunk(given, monkeypatch) -> None:
    last, head, targets, soft = given
    seen, mixed = [], losses._mixed
    monkeypatch.setattr(
        losses, "_mixed", lambda logits, *rest: seen.append(len(logits)) or mixed(logits, *rest)
    )
    monkeypatch.setattr(losses, "LOSS_CHUNK", 16)
    token_losses(last, head, targets, soft)
    assert seen == [16, 16, 8]


def test_in_bfloat16_the_gradient_has_the_dtype_and_nearly_the_values(given) -> None:
    last, head, targets, soft = given
    (exact,) = torch.autograd.grad(token_losses(last, head, targets, soft).sum(), last)
    low = last.detach().bfloat16().requires_grad_()
    token_losses(low, head.bfloat16(), targets, soft).sum().backward()
    assert low.grad.dtype == torch.bfloat16
    assert _close(low.grad.float(), exact, 2e-2)


def test_the_likeliest_tokens_come_first_and_one_is_always_left() -> None:
    ids, probs = top_probs(torch.tensor([[0.0, 2.0, 1.0]]), 32)
    assert ids.tolist() == [[1, 2]]
    assert probs.sum() < 1


def test_rows_targets_lie_one_after_another(given) -> None:
    *_, soft = given
    whole = join([soft.part(slice(0, 3)), soft.part(slice(3, None)), no_targets(2, K)])
    assert torch.equal(whole.ids[:M], soft.ids)
    assert torch.equal(whole.weights, torch.cat([soft.weights, torch.zeros(2)]))


def _tokens(num_tokens: int, sure: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return hidden states (M, D), an output layer (V, D) and targets; the surer, the smaller the gradient."""
    torch.manual_seed(4)
    head_VD = torch.randn(50, 16)
    targets_M = torch.randint(0, 50, (num_tokens,))
    return head_VD[targets_M] * sure + 0.1 * torch.randn(num_tokens, 16), head_VD, targets_M


def _cross_entropy(last_MD, head_VD, targets_M) -> tuple[float, torch.Tensor]:
    last_MD = last_MD.double().requires_grad_()
    logits_MV = last_MD @ head_VD.double().t()
    loss = torch.nn.functional.cross_entropy(logits_MV, targets_M, reduction="sum")
    loss.backward()
    return float(loss.detach()), last_MD.grad


@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_the_sum_in_chunks_is_cross_entropy_with_its_gradient(monkeypatch, chunk: int) -> None:
    monkeypatch.setattr("factory.lora.losses.LOSS_CHUNK", chunk)
    last_MD, head_VD, targets_M = _tokens(20, 0.2)
    value, gradient = _cross_entropy(last_MD, head_VD, targets_M)
    last_MD.requires_grad_()
    loss = token_losses(last_MD, head_VD, targets_M).sum()
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert (last_MD.grad - gradient).norm() < 1e-5 * gradient.norm()


def test_the_scaled_gradient_of_a_float16_loss_is_close() -> None:
    last_MD, head_VD, targets_M = (x.half() if x.is_floating_point() else x for x in _tokens(40, 0.5))
    _, gradient = _cross_entropy(last_MD, head_VD, targets_M)
    last_MD.requires_grad_()
    scale = 2.0**13
    (token_losses(last_MD, head_VD, targets_M).sum() * scale).backward()
    assert last_MD.grad.dtype == torch.float16
    assert (last_MD.grad.double() / scale - gradient).norm() < 5e-3 * gradient.norm()
