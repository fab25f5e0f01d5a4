"""A Llama-shaped model with LoRA computed a layer at a time, with backward passes of its own.

Weights that share an input are one matrix, and their adapters extra columns of it: `y = [x | u] [W | B]^T` with
`u = x (s A)^T`, so that base and adapter cost one product. Frozen weights lie in the computing dtype and are
never cast again; the residual stream is float32. Knows layers; not rows, losses or schedules.

Shapes: N tokens of all rows, D width, H heads, G key-value heads, d head size, F inner width, R ranks of a group.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from factory.lora.attention import SHORT, Places, attend, find_places
from factory.lora.layout import Layout

FAMILIES = frozenset({"llama", "qwen2", "qwen3", "mistral"})
STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
TRAINED = re.compile(
    r".*\blayers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.lora_[AB]\.default\.weight"
)


def is_llama_shaped(config: Any) -> bool:
    """Tell whether a model's configuration is of Llama, Qwen2 or Qwen3 layers whose angles depend on places alone.

    `dynamic` and `longrope` are left out: their angles change with the length of what is computed.
    """
    plain = config.model_type in FAMILIES and config.hidden_act == "silu"
    rope = getattr(config, "rope_parameters", None) or {}
    still = rope.get("rope_type", "default") in STATIC_ROPE and rope.get("partial_rotary_factor", 1.0) == 1.0
    whole = not getattr(config, "use_sliding_window", False) and not getattr(config, "sliding_window", None)
    return plain and still and whole


def is_supported(model: Any) -> bool:
    """Tell whether a model is of the shape that this module computes.

    That is layers as Llama, Qwen2 and Qwen3 have them, of which A and B of linear layers are trained, whatever their
    ranks, scales and layers, without dropout.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapters = [module for module in model.modules() if hasattr(module, "lora_A")]
    bare = all(
        set(module.lora_A) == {"default"}
        and not any(module.use_dora.values())
        and not module.lora_variant
        and isinstance(module.lora_dropout["default"], torch.nn.Identity)
        for module in adapters
    )
    linear = all(type(module.base_layer) is torch.nn.Linear for module in adapters)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    return is_llama_shaped(causal.config) and bare and linear and all(map(TRAINED.fullmatch, trained))


class Group:
    """Linear layers with one input: a frozen matrix (out, in + R) whose last columns are the adapters' B."""

    def __init__(self, modules: Sequence[Any], dtype: torch.dtype) -> None:
        """Copy the frozen weights; `refresh` brings the adapters' in."""
        bases = [getattr(module, "base_layer", module) for module in modules]
        sizes = [base.weight.shape[0] for base in bases]
        self.width = bases[0].weight.shape[1]
        self.parameters: list[torch.nn.Parameter] = []
        self._scales: list[float] = []
        self._places: list[tuple[slice, slice]] = []
        start = ranks = 0
        for module, size in zip(modules, sizes, strict=True):
            if hasattr(module, "lora_A"):
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                self.parameters += [a, b]
                self._scales.append(module.scaling["default"])
                self._places.append((slice(start, start + size), slice(ranks, ranks + a.shape[0])))
                ranks += a.shape[0]
            start += size
        self.ranks = ranks
        self.weight = bases[0].weight.new_zeros((start, self.width + ranks), dtype=dtype)
        start = 0
        for base, size in zip(bases, sizes, strict=True):
            place = self.weight[start : start + size, : self.width]
            place.copy_(base.weight.detach())
            if base.weight.dtype == dtype:  # one copy for both forms of the model
                base.weight.data = place
            start += size
        self.a = self.weight.new_zeros((ranks, self.width))
        biases = [base.bias for base in bases]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases]).to(dtype)

    def refresh(self) -> None:
        """Take the adapters as they are now."""
        with torch.no_grad():
            for (rows, ranks), scale, a, b in self._each():
                self.a[ranks] = a * scale
                self.weight[rows, self.width + ranks.start : self.width + ranks.stop] = b

    def _each(self) -> Any:
        return zip(self._places, self._scales, self.parameters[::2], self.parameters[1::2], strict=True)

    def room(self, like_ND: torch.Tensor) -> torch.Tensor:
        """Return an empty (N, in + R) for an input and its projections."""
        return self.weight.new_empty((like_ND.shape[0], self.width + self.ranks))

    def forward(self, x_NK: torch.Tensor) -> torch.Tensor:
        """Return the outputs (N, out) for an input in the first columns of `room`; fills the others."""
        if self.ranks:
            torch.mm(x_NK[:, : self.width], self.a.t(), out=x_NK[:, self.width :])
        out = x_NK @ self.weight.t()
        return out if self.bias is None else out.add_(self.bias)

    def backward(self, grad: torch.Tensor, x_NK: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the gradients of the input (N, in) and of each A and B, float32."""
        d_NK = grad @ self.weight
        if not self.ranks:
            return d_NK, []
        d_NR = d_NK[:, self.width :]
        dx = torch.addmm(d_NK[:, : self.width], d_NR, self.a)
        da = (d_NR.t() @ x_NK[:, : self.width]).float()
        grads = []
        for (rows, ranks), scale, _, _ in self._each():
            u = x_NK[:, self.width + ranks.start : self.width + ranks.stop]
            grads += [da[ranks] * scale, (grad[:, rows].t() @ u).float()]
        return dx, grads


def _normalise(h_ND: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> torch.Tensor:
    """Write the input, RMS-normalised over its last axis, to `out` and return 1 / rms, shape (N, …, 1)."""
    size = torch.linalg.vector_norm(h_ND, dim=-1, keepdim=True)
    scale = torch.rsqrt(size.square_().div_(h_ND.shape[-1]).add_(eps))
    out.copy_((h_ND * scale).mul_(weight))
    return scale


def _normalise_back(
    grad_ND: torch.Tensor, h_ND: torch.Tensor, weight: torch.Tensor, scale_N1: torch.Tensor
) -> torch.Tensor:
    weighted = grad_ND * weight
    shared = (weighted * h_ND).sum(-1, keepdim=True).mul_(scale_N1.pow(3)).div_(h_ND.shape[-1])
    return weighted.mul_(scale_N1).addcmul_(h_ND, shared, value=-1)


def _rotate(x_NHd: torch.Tensor, turned: int, cos_N1d: torch.Tensor, sin_N1d: torch.Tensor) -> torch.Tensor:
    """Return the heads, halves of the first `turned` rotated by the position's angles; a negated sine turns back."""
    half = x_NHd.shape[-1] // 2
    out = torch.empty_like(x_NHd)
    first, second = x_NHd[:, :turned, :half], x_NHd[:, :turned, half:]
    torch.mul(first, cos_N1d, out=out[:, :turned, :half]).addcmul_(second, sin_N1d, value=-1)
    torch.mul(second, cos_N1d, out=out[:, :turned, half:]).addcmul_(first, sin_N1d)
    out[:, turned:] = x_NHd[:, turned:]
    return out


class _ToHeads(torch.autograd.Function):
    """Normalise, project to queries, keys and values, rotate the first two: (N, D) → (N, H + 2 G, d).

    Where the layer has norms for them, each query and key is normalised before it is rotated.
    """

    @staticmethod
    def forward(
        ctx: Any, h: torch.Tensor, layer: "_Layer", cos: torch.Tensor, sin: torch.Tensor, *_: Any
    ) -> Any:
        x = layer.heads.room(h)
        scale = _normalise(h, layer.norm_in, layer.eps, x[:, : layer.heads.width])
        heads = layer.heads.forward(x).view(h.shape[0], -1, layer.head_size)
        plain, turned = heads.float(), layer.num_heads + layer.num_key_heads
        kept: tuple[torch.Tensor, ...] = ()
        if layer.norm_heads is not None:
            normed = torch.empty_like(plain)
            normed[:, turned:] = plain[:, turned:]
            kept = (heads, _normalise(plain[:, :turned], layer.norm_heads, layer.eps, normed[:, :turned]))
            plain = normed
        ctx.layer = layer
        ctx.save_for_backward(h, x, scale, cos, sin, *kept)
        return _rotate(plain, turned, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        layer = ctx.layer
        h, x, scale, cos, sin, *kept = ctx.saved_tensors
        turned = layer.num_heads + layer.num_key_heads
        plain = _rotate(grad, turned, cos, -sin)
        if kept:
            heads, head_scale = kept
            plain[:, :turned] = _normalise_back(
                plain[:, :turned], heads[:, :turned].float(), layer.norm_heads, head_scale
            )
        dx, grads = layer.heads.backward(plain.to(x.dtype).view(h.shape[0], -1), x)
        dh = _normalise_back(dx, h, layer.norm_in, scale) if ctx.needs_input_grad[0] else None
        return dh, None, None, None, *grads


class _FromHeads(torch.autograd.Function):
    """Project attention's output, add it, then the gated MLP and its residual: (N, D), (N, H d) → (N, D)."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, attended: torch.Tensor, layer: "_Layer", *_: Any) -> Any:
        a = layer.out.room(h)
        a[:, : layer.out.width] = attended
        middle = h + layer.out.forward(a)
        x = layer.gates.room(h)
        scale = _normalise(middle, layer.norm_mid, layer.eps, x[:, : layer.gates.width])
        gates = layer.gates.forward(x)
        inner = gates.shape[1] // 2
        y = layer.down.room(h)
        y[:, :inner] = functional.silu(gates[:, :inner].float()).mul_(gates[:, inner:])
        out = middle + layer.down.forward(y)
        ctx.layer = layer
        ctx.save_for_backward(a, middle, x, scale, gates, y)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        layer = ctx.layer
        a, middle, x, scale, gates, y = ctx.saved_tensors
        dy, down_grads = layer.down.backward(grad.to(y.dtype), y)
        inner = gates.shape[1] // 2
        gate, up, dy = gates[:, :inner].float(), gates[:, inner:], dy.float()
        d_gates = torch.empty_like(gates)
        d_gates[:, inner:] = functional.silu(gate).mul_(dy)
        d_gates[:, :inner] = torch.ops.aten.silu_backward(dy.mul_(up), gate)
        dx, gate_grads = layer.gates.backward(d_gates, x)
        d_middle = _normalise_back(dx, middle, layer.norm_mid, scale).add_(grad)
        da, out_grads = layer.out.backward(d_middle.to(a.dtype), a)
        return d_middle, da, None, *out_grads, *gate_grads, *down_grads


class _Layer:
    """One decoder layer's frozen weights and adapters, ready to be computed."""

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads = Group([getattr(attention, name) for name in ATTENTION], dtype)
        self.out = Group([attention.o_proj], dtype)
        self.gates = Group([getattr(mlp, name) for name in MLP], dtype)
        self.down = Group([mlp.down_proj], dtype)
        self.groups = (self.heads, self.out, self.gates, self.down)
        self.norm_in = layer.input_layernorm.weight.detach().float()
        self.norm_mid = layer.post_attention_layernorm.weight.detach().float()
        self.eps = config.rms_norm_eps
        self.num_heads, self.num_key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.norm_heads = self._norms_of(attention) if hasattr(attention, "q_norm") else None

    def _norms_of(self, attention: Any) -> torch.Tensor:
        """Return the weights of the norms of queries and keys, shape (H + G, d)."""
        norms = ((attention.q_norm, self.num_heads), (attention.k_norm, self.num_key_heads))
        return torch.cat([norm.weight.detach().float().expand(number, -1) for norm, number in norms])

    def __call__(
        self, h: torch.Tensor, layout: Layout, places: Places | None, cos: torch.Tensor, sin: torch.Tensor
    ) -> torch.Tensor:
        heads = _ToHeads.apply(h, self, cos, sin, *self.heads.parameters)
        attended = attend(
            heads if places else heads.to(self.out.weight.dtype), layout, places, self.num_heads
        )
        rest = [*self.out.parameters, *self.gates.parameters, *self.down.parameters]
        return _FromHeads.apply(h, attended, self, *rest)


class FusedModel:
    """The layers of a causal language model, cut below its first adapted one."""

    def __init__(self, model: Any, first_layer: int, dtype: torch.dtype) -> None:
        """Copy the frozen weights in the computing dtype."""
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        core, config = causal.model, causal.config
        layers = [_Layer(layer, config, dtype) for layer in core.layers]
        self._below, self._above = layers[:first_layer], layers[first_layer:]
        self._embedding = core.embed_tokens.weight.detach()
        self._rotary, self.dtype = core.rotary_emb, dtype
        self._norm, self._eps = core.norm.weight.detach().float(), config.rms_norm_eps
        self.head = causal.lm_head.weight.detach().to(dtype)
        self.refresh()

    def refresh(self) -> None:
        """Take the adapters as the optimizer left them; call it after every step."""
        for layer in self._above:
            for group in layer.groups:
                group.refresh()

    @torch.no_grad()
    def lower(self, layout: Layout) -> torch.Tensor:
        """Return what enters the first adapted layer, shape (N, D), float32."""
        hidden = self._embedding[layout.ids].float()
        return self._through(self._below, hidden, layout)

    def upper(self, hidden_ND: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Return the last, normalised hidden states of the tokens that carry loss, in the computing dtype."""
        last = self._through(self._above, hidden_ND, layout)[layout.before_targets]
        scale = torch.rsqrt(last.square().mean(-1, keepdim=True) + self._eps)
        return (last * scale * self._norm).to(self.dtype)

    def _through(self, layers: Sequence[_Layer], hidden: torch.Tensor, layout: Layout) -> torch.Tensor:
        half = self._rotary.inv_freq.shape[0]
        cos, sin = (
            table[0, :, None, :half].float() for table in self._rotary(hidden, layout.positions[None])
        )
        first, places = layers[0] if layers else None, None
        if first and layout.longest + layout.prefix <= SHORT:
            places = find_places(layout, first.num_heads, first.num_key_heads, torch.float32)
        for layer in layers:
            hidden = layer(hidden, layout, places, cos, sin)
        return hidden
