"""AdamW over an adapter's parameters: clipping, 8-bit moments, and the loss scaling that float16 needs.

Knows gradients; not rows, schedules or models.
"""

import importlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch

from factory.errors import MissingExtraError, TrainError

LEAST_SCALE = 2.0**-10  # of the loss; it begins at 65,536
Kind = Literal["adamw", "paged_adamw_8bit"]


class Scales(Protocol):
    """A symmetric matrix S of parameters W = W'S that are to learn as W' would."""

    def scale_(self, rows_RD: torch.Tensor) -> torch.Tensor:
        """Multiply rows by S in place, and return them."""
        ...


class Penalty(Protocol):
    """What stands beside the loss and depends on the parameters alone."""

    def add_gradients(self) -> None:
        """Add its gradients to those that are there."""
        ...


class Optimizer:
    """AdamW with clipped gradients.

    Parameters named in `scaled` are W = W'S, of which W' is what learns: S stays as it is. The gradient of a `penalty`
    is added to the loss's, before both are clipped.
    With float16 weights the loss is scaled, as small gradients would be zero otherwise: a step whose gradients
    overflow is left out and the scale halved.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        kind: Kind,
        *,
        weight_decay: float,
        max_gradient_norm: float,
        dtype: torch.dtype,
        device: str,
        scaled: Sequence[tuple[torch.Tensor, Scales]] = (),
        penalty: Penalty | None = None,
    ) -> None:
        """Keep groups of `params`, each with the `factor` of its learning rate; `dtype` is the frozen weights'."""
        self.parameters, self._max_norm = (
            [value for group in groups for value in group["params"]],
            max_gradient_norm,
        )
        if kind == "adamw":
            self._adamw: Any = torch.optim.AdamW(list(groups), weight_decay=weight_decay, fused=True)
        else:
            self._adamw = _paged_8bit(list(groups), weight_decay)
        self._scaled, self._penalty = scaled, penalty
        self._scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)

    def backward(self, loss: torch.Tensor) -> None:
        """Add a loss's gradients, scaled, to those that are there."""
        self._scaler.scale(loss).backward()

    def step(self, learning_rate: float) -> None:
        """Change the parameters by their gradients, or leave them where a gradient is not finite, and clear those."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self._scaler.unscale_(self._adamw)
        if self._penalty:
            self._penalty.add_gradients()
        self._scale([value.grad for value, _ in self._scaled])
        torch.nn.utils.clip_grad_norm_(self.parameters, self._max_norm)
        before = [value.detach().clone() for value, _ in self._scaled]
        self._scaler.step(self._adamw)
        self._scale_steps(before, learning_rate)
        self._scaler.update()
        scale = self._scaler.get_scale()
        if self._scaler.is_enabled() and scale < LEAST_SCALE:
            raise TrainError(
                f"Gradients in float16 are not finite, with the loss scaled by {scale} in the end: no step counts; set "
                "train.precision to float32, or bfloat16 where the GPU has it"
            )
        self.clear()

    @torch.no_grad()
    def _scale_steps(self, before: Sequence[torch.Tensor], learning_rate: float) -> None:
        """Multiply by S what a step has added, but for weight decay, which shrinks W as it does W'."""
        kept = {
            id(value): 1 - learning_rate * group["factor"] * group["weight_decay"]
            for group in self._adamw.param_groups
            for value in group["params"]
        }
        moved = [
            (value, old) if value.grad is not None and not torch.equal(value, old) else None  # or left out
            for (value, _), old in zip(self._scaled, before, strict=True)
        ]
        for value, old in filter(None, moved):
            value.sub_(old.mul_(kept[id(value)]))
        self._scale([pair[0].data if pair else None for pair in moved])
        for value, old in filter(None, moved):
            value.add_(old)

    @torch.no_grad()
    def _scale(self, tensors: Sequence[torch.Tensor | None]) -> None:
        """Multiply tensors, one for each scaled parameter, by its S in place; those with the same S together."""
        alike: dict[int, list[tuple[torch.Tensor, Scales]]] = defaultdict(list)
        for tensor, (_, by) in zip(tensors, self._scaled, strict=True):
            if tensor is not None:
                alike[id(by)].append((tensor, by))
        for group in alike.values():
            parts = [tensor for tensor, _ in group]
            by = group[0][1]
            if len(parts) == 1:
                by.scale_(parts[0])
            else:
                made = by.scale_(torch.cat(parts)).split([len(part) for part in parts])
                torch._foreach_copy_(parts, list(made))

    def clear(self) -> None:
        """Forget the gradients that are there."""
        self._adamw.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and the scale of the loss."""
        return {**self._adamw.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._adamw.load_state_dict({name: value for name, value in state.items() if name != "scaler"})
        if state.get("scaler"):
            self._scaler.load_state_dict(state["scaler"])


def _paged_8bit(groups: list[dict[str, Any]], weight_decay: float) -> Any:
    try:
        optimizers = importlib.import_module("bitsandbytes.optim")
    except ImportError as error:
        raise MissingExtraError(
            "train.optimizer 'paged_adamw_8bit' needs the package bitsandbytes: pip install "
            "'adapter-factory[cuda]', or set train.optimizer to adamw"
        ) from error
    return optimizers.PagedAdamW8bit(groups, weight_decay=weight_decay)
