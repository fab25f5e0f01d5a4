"""The loss of each answer token: cross-entropy, or mixed with the divergence from a teacher's soft targets.

Knows hidden states, an output layer and targets; not rows, models, or what a loss is for.

Shapes: M tokens that carry loss, C of them at a time, D width, V vocabulary, K tokens of which a teacher's
probability is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

LOSS_CHUNK = 256  # tokens; 50 MB of logits at a vocabulary of 49,152


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's likeliest next tokens: `ids` and `probs` (M, K); all others share what `probs` lack to 1.

    `weights` (M,) is the share of the divergence in a token's loss, the cross-entropy has the rest.
    """

    ids: torch.Tensor
    probs: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> "SoftTargets":
        """Return them on a device, with ids that torch can index by."""
        return SoftTargets(self.ids.to(device).long(), self.probs.to(device), self.weights.to(device))

    def part(self, tokens: slice) -> "SoftTargets":
        """Return those of some tokens."""
        return SoftTargets(self.ids[tokens], self.probs[tokens], self.weights[tokens])

    def divergence(self, top_CK: torch.Tensor, rest_C1: torch.Tensor) -> torch.Tensor:
        """Return KL(teacher ‖ student), in nats, from the student's log-probabilities of `ids` and of all others."""
        probs = torch.cat([self.probs, self.others()], dim=1)
        logs = torch.cat([top_CK, rest_C1], dim=1)
        return (torch.special.xlogy(probs, probs) - probs * logs).sum(-1)

    def others(self) -> torch.Tensor:
        """Return the probability of all other tokens together, shape (M, 1)."""
        return (1 - self.probs.sum(-1, keepdim=True)).clamp(min=0)


def join(parts: Sequence[SoftTargets]) -> SoftTargets:
    """Return the targets of several rows one after another."""
    return SoftTargets(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.probs for part in parts]),
        torch.cat([part.weights for part in parts]),
    )


def no_targets(num_tokens: int, count: int) -> SoftTargets:
    """Return targets of weight 0 for tokens that no teacher was asked about: their loss is the cross-entropy."""
    ids = torch.arange(count, dtype=torch.int32).expand(num_tokens, -1)
    return SoftTargets(ids, torch.zeros(num_tokens, count), torch.zeros(num_tokens))


def _hard(logits_CV: torch.Tensor, targets_C1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses (C,) and, in place of the logits, their gradient."""
    sizes_C1 = logits_CV.logsumexp(-1, keepdim=True)
    losses = (sizes_C1 - logits_CV.gather(1, targets_C1))[:, 0]
    grad_CV = logits_CV.sub_(sizes_C1).exp_()
    return losses, grad_CV.scatter_add_(1, targets_C1, grad_CV.new_full(targets_C1.shape, -1.0))


def _mixed(
    logits_CV: torch.Tensor, targets_C1: torch.Tensor, soft: SoftTargets
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses (C,) and, in place of the logits, their gradient.

    With q the student's probabilities, p the teacher's and w the weight, the divergence pulls a kept token by
    q - w p, and all others together by the same, each by its part of them.
    """
    shares_C1 = soft.weights[:, None]
    target_C1, top_CK = logits_CV.gather(1, targets_C1), logits_CV.gather(1, soft.ids)
    rest_C1 = logits_CV.scatter_(1, soft.ids, -torch.inf).logsumexp(-1, keepdim=True)
    sizes_C1 = torch.logaddexp(rest_C1, top_CK.logsumexp(-1, keepdim=True))
    top_CK.sub_(sizes_C1)
    kept = soft.divergence(top_CK, rest_C1 - sizes_C1)
    losses = (1 - soft.weights) * (sizes_C1 - target_C1)[:, 0] + soft.weights * kept
    pull_C1 = (rest_C1 - sizes_C1).exp_() - shares_C1 * soft.others()
    grad_CV = logits_CV.sub_(rest_C1).exp_().mul_(pull_C1)
    grad_CV.scatter_(1, soft.ids, top_CK.exp_() - shares_C1 * soft.probs)
    return losses, grad_CV.scatter_add_(1, targets_C1, shares_C1 - 1)


class _TokenLosses(torch.autograd.Function):
    """Output layer and losses in one, a chunk of tokens at a time; the gradient is made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        last_MD: torch.Tensor,
        head_VD: torch.Tensor,
        targets_M: torch.Tensor,
        soft: SoftTargets | None,
    ) -> Any:
        losses_M = last_MD.new_empty(len(targets_M), dtype=torch.float32)
        grad_MD = torch.empty_like(last_MD) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets_M), LOSS_CHUNK):
            part = slice(start, start + LOSS_CHUNK)
            logits_CV = (last_MD[part] @ head_VD.t()).float()
            targets_C1 = targets_M[part, None]
            losses_M[part], weights_CV = (
                _hard(logits_CV, targets_C1)
                if soft is None
                else _mixed(logits_CV, targets_C1, soft.part(part))
            )
            if grad_MD is not None:
                grad_MD[part] = weights_CV.to(head_VD.dtype) @ head_VD
        ctx.save_for_backward(grad_MD)
        return losses_M

    @staticmethod
    def backward(ctx: Any, grad_M: torch.Tensor) -> Any:
        (grad_MD,) = ctx.saved_tensors
        return (grad_MD * grad_M[:, None]).to(grad_MD.dtype), None, None, None


def token_losses(
    last_MD: torch.Tensor, head_VD: torch.Tensor, targets_M: torch.Tensor, soft: SoftTargets | None = None
) -> torch.Tensor:
    """Return each token's loss in nats, shape (M,), under a frozen output layer.

    No more than `LOSS_CHUNK` rows of logits are ever in memory.
    """
    losses: torch.Tensor = _TokenLosses.apply(last_MD, head_VD, targets_M, soft)
    return losses


def losses_of_logits(
    logits_MV: torch.Tensor, targets_M: torch.Tensor, soft: SoftTargets | None = None
) -> torch.Tensor:
    """Return each token's loss in nats, shape (M,), as autograd differentiates it: for output layers of any kind."""
    logs_MV = logits_MV.float().log_softmax(-1)
    hard = -logs_MV.gather(1, targets_M[:, None])[:, 0]
    if soft is None:
        return hard
    rest_M1 = logs_MV.scatter(1, soft.ids, -torch.inf).logsumexp(-1, keepdim=True)
    kept = soft.divergence(logs_MV.gather(1, soft.ids), rest_M1)
    return (1 - soft.weights) * hard + soft.weights * kept


def top_probs(logits_MV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and probabilities of the likeliest tokens, both (M, count), likeliest first.

    At least one token is left to the others, whose probability would else be that of nothing.
    """
    probs, ids = logits_MV.float().softmax(-1).topk(min(count, logits_MV.shape[1] - 1))
    return ids, probs
