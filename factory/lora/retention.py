"""What a model says to general questions, held while an adapter learns something else.

The model is put through general questions with answers of its own once, each next token being drawn from its
distribution. With x what a layer reads there and g the gradient of the tokens' log-probability for what it puts out,
the divergence of its changed distribution from that is, to second order and with layers, x and g taken apart (K-FAC,
Martens and Grosse, arXiv:1503.05671; against forgetting, Ritter et al., arXiv:1805.07810),

    1/2 tr(G D C Dᵀ) in nats a token, with C = E[x xᵀ] over tokens read, G the sum of g gᵀ for one token drawn,

where D is what has been added to the layer's weights since. Its gradient stands beside the loss's. C and G are kept by
their main directions, found in one pass by random projections (Nyström; Tropp et al., arXiv:1706.05736).
Knows models and rows; not steps or schedules.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from factory.errors import TrainError
from factory.lora.adapter import adapted_layers, reads_rows
from factory.lora.batches import Batch, EncodedRow, collate
from factory.lora.initial import ADAPTER
from factory.lora.split import SplitModel
from factory.lora.step import autocast, like_lengths
from factory.lora.whitening import most_directions, some_rows

OVERSAMPLED = 16  # random directions beyond those that are kept
TOKENS, TOKENS_AT_ONCE = 4096, 512  # looked at
LEAST = 1e-6  # of the largest part of a sum of float32 numbers; what is below is rounding
SCALE = 1024.0  # of gradients, as float16 has no numbers as small as many are


@dataclass(frozen=True)
class Spectrum:
    """A symmetric matrix: `size` W Wᵀ, of some directions W (D, K), and `rest` in all of them."""

    directions_DK: torch.Tensor
    size: float
    rest: float

    def times(self, rows_RD: torch.Tensor) -> torch.Tensor:
        """Return some rows times the matrix, in float32."""
        directions_DK = self.directions_DK
        along_RD = (rows_RD.to(directions_DK.dtype) @ directions_DK) @ directions_DK.T
        return torch.add(rows_RD * self.rest, along_RD, alpha=self.size)

    def to(self, device: str, dtype: torch.dtype) -> "Spectrum":
        """Return the same on a device; float16 has no numbers as small as products with B are, so stays float32."""
        kept = torch.float32 if dtype == torch.float16 else dtype
        return replace(self, directions_DK=self.directions_DK.to(device, kept))


class Sketch:
    """A mean of outer products of vectors of size D, each seen once, by what it makes of P random directions."""

    def __init__(self, random_DP: torch.Tensor) -> None:
        """Begin with no vectors; the random directions are of length one and at right angles."""
        self._random_DP, self._seen_DP = random_DP, torch.zeros_like(random_DP)
        self._energy = torch.zeros((), device=random_DP.device)
        self.count = 0

    def add(self, vectors_ND: torch.Tensor) -> None:
        """Add some vectors' outer products."""
        self._seen_DP.addmm_(vectors_ND.T, vectors_ND @ self._random_DP)
        self._energy += vectors_ND.square().sum()
        self.count += len(vectors_ND)

    def spectrum(self, count: int | None = None) -> Spectrum | None:
        """Return the sum divided by the number of vectors, or another; None where it is zero or not finite."""
        count = count or self.count
        energy = float(self._energy) / max(1, count)
        if not 0 < energy < float("inf"):
            return None
        seen_DP, random_DP = self._seen_DP.cpu().double() / count, self._random_DP.cpu().double()
        core_PP = random_DP.T @ seen_DP
        sizes_P, turned_PP = torch.linalg.eigh((core_PP + core_PP.T) / 2)
        sizes_P = torch.where(sizes_P > LEAST * sizes_P[-1], sizes_P, torch.inf)
        vectors_DP, roots_P, _ = torch.linalg.svd(
            seen_DP @ (turned_PP * sizes_P.rsqrt()), full_matrices=False
        )
        kept = min(most_directions(len(seen_DP)), int(sizes_P.isfinite().sum()))
        energies_K = roots_P[:kept].square()
        rest = max(0.0, energy - float(energies_K.sum())) / max(1, len(seen_DP) - kept)
        above_K = (energies_K - rest).clamp(min=0.0)
        largest = float(above_K.max()) if kept else 0.0
        shares_K = above_K / (largest or 1.0)
        return Spectrum((vectors_DP[:, :kept] * shares_K.sqrt()).float().contiguous(), largest, rest)


@dataclass(frozen=True)
class Kept:
    """A layer's C and G, and the A and B it began with where they changed the base from the beginning."""

    read: Spectrum
    put_out: Spectrum
    begun: tuple[torch.Tensor, torch.Tensor] | None = None


Factors = tuple[torch.Tensor, torch.Tensor]  # (Q, D) and (O, Q), whose product is a layer's change
Retention = Mapping[str, Kept]  # by the layer's name among the model's modules
NONE: Retention = {}


@torch.enable_grad()
def look_at_answers(model: Any, rows: Sequence[EncodedRow], device: str, dtype: torch.dtype) -> Retention:
    """Return what holds a model to what it says to some rows' questions; DoRA and experts' weights have nothing.

    The same model and rows give the same, on the CPU; no rows give nothing. Of weights that are spread over several
    processes all have to call, with the same rows.

    Raises:
        TrainError: what the model says is not finite.
    """
    layers: dict[str, Any] = {name: layer for name, layer in adapted_layers(model) if _has_change(layer)}
    if not rows or not layers:
        return NONE
    chosen, look, split = some_rows(rows, TOKENS), _Look(), SplitModel(model, 0)
    hooks = [layer.register_forward_hook(look.hook(name)) for name, layer in layers.items()]
    rows_at_once = max(1, TOKENS_AT_ONCE // max(len(row.ids) for row in chosen))
    was_training, drawn = model.training, 0
    model.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for numbers in like_lengths([row.ids for row in chosen], rows_at_once):
                batch = collate([chosen[number] for number in numbers], pad_id=0).to(device)
                look.mask = batch.mask.bool()
                drawn += _draw_answers(split, batch, device, dtype)
                model.zero_grad(set_to_none=True)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    read = {name: sketch.spectrum() for name, sketch in look.read.items()}
    found = {}
    for name, layer in layers.items():
        if name in look.put_out:  # tokens may pass an expert by
            reads, puts_out = read[look.source[name]], look.put_out[name].spectrum(drawn)
            if reads and puts_out:
                found[name] = Kept(reads, puts_out, _begun(layer))
    return found


def on_device(retention: Retention, device: str, dtype: torch.dtype) -> Retention:
    """Return the same on a device, in the dtype that the model computes in or float32; what is shared stays so."""
    moved: dict[int, Spectrum] = {}

    def move(spectrum: Spectrum) -> Spectrum:
        if id(spectrum) not in moved:
            moved[id(spectrum)] = spectrum.to(device, dtype)
        return moved[id(spectrum)]

    return {
        name: Kept(
            move(kept.read),
            move(kept.put_out),
            kept.begun and (kept.begun[0].to(device), kept.begun[1].to(device)),
        )
        for name, kept in retention.items()
    }


class Divergence:
    """How far a model has moved from what it said, `strength` times beside a loss in nats a token."""

    def __init__(self, model: Any, retention: Retention, strength: float) -> None:
        """Keep the layers of the model that have something to keep; those that read the same are together."""
        layers: dict[str, Any] = dict(adapted_layers(model))
        groups: dict[int, list[tuple[Any, Kept]]] = defaultdict(list)
        for name, kept in retention.items():
            groups[id(kept.read)].append((layers[name], kept))
        self._groups, self._strength = list(groups.values()), strength

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add its gradient to that of each A and B; one without gradient, such as an idle expert's, is left alone."""
        for layer, _, (into_OQ, read_QD) in self._each():
            first, second = _factors(layer)
            if first.grad is None or second.grad is None:
                continue
            by = self._strength * layer.scaling[ADAPTER] ** 2
            second.grad.addmm_(into_OQ, read_QD @ first.T, alpha=by)
            first.grad.addmm_(second.T @ into_OQ, read_QD, alpha=by)

    @torch.no_grad()
    def nats(self) -> float:
        """Return how far it is, in nats a token."""
        total = 0.0
        for layer, (first, second), (into_OQ, read_QD) in self._each():
            products = (second.T @ into_OQ) * (first @ read_QD.T)
            total += 0.5 * layer.scaling[ADAPTER] ** 2 * float(products.sum())
        return total

    def _each(self) -> Iterator[tuple[Any, Factors, Factors]]:
        """Yield each layer, the two factors of its change, and with them G times the second and the first times C."""
        for group in self._groups:
            changes = [_changes(layer, kept) for layer, kept in group]
            firsts = [first for first, _ in changes]
            read = group[0][1].read.times(torch.cat(firsts)).split([len(first) for first in firsts])
            for (layer, kept), change, read_QD in zip(group, changes, read, strict=True):
                yield layer, change, (kept.put_out.times(change[1].T).T, read_QD)


class _Look:
    """What layers read and the gradients of what they put out, as they come."""

    def __init__(self) -> None:
        self.mask = torch.zeros(0, dtype=torch.bool)
        self.read: dict[str, Sketch] = {}
        self.put_out: dict[str, Sketch] = {}
        self.source: dict[str, str] = {}  # of modules that read the same tensor, the first
        self._last: tuple[Any, str] = (None, "")
        self._random: dict[int, torch.Tensor] = {}  # directions by size

    def hook(self, name: str) -> Any:
        def look(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if inputs[0] is not self._last[0]:
                self._last = inputs[0], name
                self._add(self.read, name, inputs[0])
            self.source[name] = self._last[1]
            output.register_hook(lambda gradient: self._add(self.put_out, name, gradient / SCALE))

        return look

    @torch.no_grad()
    def _add(self, sketches: dict[str, Sketch], name: str, vectors: torch.Tensor) -> None:
        with torch.autocast(vectors.device.type, enabled=False):  # it would round what is found here
            own_ND = vectors.detach().float().flatten(0, -2)
            if len(own_ND) == self.mask.numel():  # else an expert's share of the tokens
                own_ND = own_ND[self.mask.flatten()]
            if name not in sketches:
                sketches[name] = Sketch(self._directions(own_ND.shape[-1], own_ND.device))
            sketches[name].add(own_ND)

    def _directions(self, size: int, device: torch.device) -> torch.Tensor:
        if size not in self._random:
            width = min(size, most_directions(size) + OVERSAMPLED)
            drawn = torch.randn(size, width, generator=torch.Generator().manual_seed(size))
            self._random[size] = torch.linalg.qr(drawn).Q.to(device)
        return self._random[size]


def _draw_answers(split: SplitModel, batch: Batch, device: str, dtype: torch.dtype) -> int:
    """Add the gradients of a token drawn at each place that has a label, and return how many they are."""
    places = batch.labels[:, 1:] >= 0
    with autocast(device, dtype):
        hidden = split.whole(batch.ids, {"attention_mask": batch.mask})[:, :-1][places]
        logprobs_NV = split.head(hidden).float().log_softmax(-1)
    if not logprobs_NV.isfinite().all():
        raise TrainError(
            f"What the base says to general questions is not finite in {str(dtype).removeprefix('torch.')}: set "
            "train.precision to float32"
        )
    drawn = torch.multinomial(logprobs_NV.detach().exp(), 1, replacement=True)
    (-SCALE * logprobs_NV.gather(1, drawn).sum()).backward()
    return int(places.sum())


def _has_change(layer: Any) -> bool:
    """Tell whether what is added to a layer's weights is B A and no more."""
    return reads_rows(layer) and not layer.use_dora[ADAPTER]


def _factors(layer: Any) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def _begun(layer: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    first, second = (value.detach().cpu().clone() for value in _factors(layer))
    return (first, second) if second.any() else None


def _changes(layer: Any, kept: Kept) -> Factors:
    """Return two factors of what has been added, without the scale: (B - B0) A + B0 (A - A0)."""
    first, second = _factors(layer)
    if kept.begun is None:
        return first, second
    first_begun, second_begun = kept.begun
    return torch.cat([first, first - first_begun]), torch.cat([second - second_begun, second_begun], 1)
