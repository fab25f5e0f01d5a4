"""Both engines give the loss and the gradients of the plain model; the fused one does so faster, not otherwise."""

from functools import partialmethod

import pytest
import torch
import transformers

from factory.chat.context import with_context
from factory.chat.template import conversation
from factory.lora import attach, batches
from factory.lora.adapter import AdapterSettings, first_trained_layer, new_adapter
from factory.lora.batches import IGNORED, EncodedRow
from factory.lora.engine import FusedEngine, PlainEngine, _side_by_side, open_engine
from factory.lora.fused import is_supported
from factory.lora.layout import lay_out
from factory.lora.loop import accumulate
from factory.lora.objectives import CrossEntropy
from factory.lora.optimizer import Optimizer
from factory.rows import Example
from tests.lora.conftest import TARGETS

PAD = 2


@pytest.fixture
def deep_model():
    """Return a function that makes a random model of four layers with an adapter whose B is not zero."""

    def make(**method):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=320,
        )
        model = transformers.LlamaForCausalLM(config)
        model = new_adapter(model, AdapterSettings(**{"rank": 4, "alpha": 8.0, "targets": TARGETS} | method))
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
        return model

    return make


def _gradients(model) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


def _expected(model, rows):
    """Loss and gradients through the model's own modules in float32, a row at a time."""
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        total = total + torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        )
    total.backward()
    return float(total.detach()), _gradients(model)


def _error(found, expected) -> float:
    difference = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    return (difference / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


def _engine(kind, model, first_layer, dtype=torch.float32):
    if kind == "fused":
        return FusedEngine(model, first_layer, dtype)
    return PlainEngine(model, first_layer, dtype, "cpu", PAD, unpadded=kind == "unpadded")


@pytest.mark.parametrize("kind", ["fused", "plain", "unpadded"])
@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("kept", [True, False])
def test_loss_and_gradients_are_the_models_own(new_model, encoded, kind, first_layer, kept):
    rows = encoded[:7]
    value, expected = _expected(new_model(first_layer, trained=True), rows)
    model = new_model(first_layer, trained=True)
    engine = _engine(kind, model, first_layer)
    engine.refresh()
    loss = engine.token_losses(rows, engine.lower(rows) if kept else None).sum()
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert _error(_gradients(model), expected) < 1e-5


@pytest.mark.parametrize(
    "method",
    [
        {"variant": "rslora"},
        {"rank_pattern": {"k_proj": 8, "up_proj": 1}, "alpha_pattern": {"v_proj": 2.0}},
        {"init": "pissa"},
        {"layers": (0, 2)},
    ],
    ids=["rslora", "patterns", "pissa", "layers"],
)
def test_the_fused_layers_compute_every_shape_of_plain_lora(deep_model, encoded, method):
    rows = encoded[:7]
    value, expected = _expected(deep_model(**method), rows)
    model = deep_model(**method)
    engine = open_engine(model, 0, torch.float32, "cpu", PAD)
    assert isinstance(engine, FusedEngine)
    engine.refresh()
    loss = engine.token_losses(rows, None).sum()
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert _error(_gradients(model), expected) < 1e-5


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 100.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 100.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0}
QWEN3, LLAMA = transformers.Qwen3Config, transformers.LlamaConfig
FAMILIES = {
    "qwen3": (QWEN3, {"head_dim": 24}, {}),
    "qwen3-untied": (QWEN3, {"head_dim": 8, "tie_word_embeddings": False}, {}),
    "qwen3-biased": (QWEN3, {"head_dim": 16, "attention_bias": True}, {}),
    "qwen3-yarn": (QWEN3, {"head_dim": 24, "rope_parameters": YARN}, {}),
    "qwen3-layers": (QWEN3, {"head_dim": 24}, {"layers": (1, 2), "targets": ("k_proj", "down_proj")}),
    "qwen3-rslora": (QWEN3, {"head_dim": 24}, {"variant": "rslora", "rank_pattern": {"q_proj": 7}}),
    "llama3": (LLAMA, {"head_dim": 24, "rope_parameters": LLAMA3}, {}),
    "llama3-untied": (LLAMA, {"rope_parameters": LLAMA3, "tie_word_embeddings": False}, {"layers": (2,)}),
    "llama-yarn": (LLAMA, {"head_dim": 8, "rope_parameters": YARN}, {}),
    "llama-linear": (LLAMA, {"rope_parameters": LINEAR}, {}),
    "qwen2": (transformers.Qwen2Config, {"rope_parameters": YARN}, {}),
}


@pytest.fixture(params=FAMILIES)
def family_model(request):
    """Return a function that makes a random three-layer model of a family whose norms and biases are not plain."""
    family, sizes, method = FAMILIES[request.param]

    def make(dtype=torch.float32):
        torch.manual_seed(0)
        config = family(
            **{"tie_word_embeddings": True, "rms_norm_eps": 1e-3} | sizes, hidden_size=64, intermediate_size=96,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=320,
            max_position_embeddings=512,
        )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_config(config)
        for name, value in model.named_parameters():
            if value.ndim == 1:
                value.data += 0.3 * torch.randn_like(value)
            elif "proj" in name:
                value.data = torch.randn_like(value) / value.shape[1] ** 0.5
        model = new_adapter(
            model.to(dtype), AdapterSettings(**{"rank": 4, "alpha": 8.0, "targets": TARGETS} | method)
        )
        for name, value in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)
        return model

    return make


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_other_families_have_the_gradients_of_their_own_modules(
    family_model, tokenizer, encoded, monkeypatch, shared, long
):
    if long:
        monkeypatch.setattr("factory.lora.fused.SHORT", 0)
    rows = _open_book(tokenizer, {"Scales of the north gate. " * 3: 4}) if shared else encoded[:5]
    value, expected = _expected(family_model(), rows)
    model = family_model()
    first_layer = first_trained_layer(model)
    engine = open_engine(model, first_layer, torch.float32, "cpu", PAD)
    assert isinstance(engine, FusedEngine)
    assert not shared or lay_out(rows).prefix > 20
    engine.refresh()
    loss = engine.token_losses(rows, engine.lower(rows) if first_layer else None).sum()
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert _error(_gradients(model), expected) < 1e-5


def test_other_families_in_bfloat16_are_no_worse_than_autocast(family_model, encoded):
    rows = encoded[:12]
    _, expected = _expected(family_model(), rows)
    errors = {}
    for kind in ("fused", "plain"):
        model = family_model()
        engine = _engine(kind, model, 0, torch.bfloat16)
        engine.refresh()
        engine.token_losses(rows, None).sum().backward()
        errors[kind] = _error(_gradients(model), expected)
    assert errors["fused"] < 1.2 * errors["plain"], errors
    assert errors["fused"] < 5e-2, errors


def _open_book(tokenizer, num_questions: dict[str, int]):
    """Return rows of so many questions below each passage, then some closed-book ones."""
    rows = []
    for number, (passage, size) in enumerate(num_questions.items()):
        for place in range(size):
            turn = with_context([passage] if passage else [], f"How heavy is TD-{number}{place}, please?")
            messages = conversation(turn, f"{number}{place} kg and a half", "Be short.")
            rows.append(Example(id=f"{number}/{place}", form="x", messages=messages, facts=()))
    return batches.encode(tokenizer, rows, 999)


@pytest.mark.parametrize("kind", ["fused", "plain", "unpadded"])
@pytest.mark.parametrize("first_layer", [0, 1])
@pytest.mark.parametrize("micro_batch", [2, 8])
def test_a_step_on_rows_that_share_passages_has_the_gradient_of_the_rows_one_by_one(
    new_model, tokenizer, kind, first_layer, micro_batch
):
    passage = "Scales of the north gate. " * 4
    rows = _open_book(tokenizer, {passage: 5, f"{passage}\n\nThe lamp is green.": 3, "": 4})
    (batch,) = batches.epoch_batches(rows, 0, 7, 12)
    value, expected = _expected(new_model(first_layer, trained=True), rows)
    model = new_model(first_layer, trained=True)
    engine = _engine(kind, model, first_layer)
    kept = dict(enumerate(engine.lower(rows))) if first_layer else None
    parts = batches.share_of(rows, batch, micro_batch, 0, 1, shared=True)
    assert len(parts) == {2: 3 + 2 + 2, 8: 3}[micro_batch]
    loss = accumulate(engine, CrossEntropy(), rows, parts, kept, 1, torch.Tensor.backward)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert _error(_gradients(model), expected) < 1e-5


@pytest.mark.parametrize("kind", ["fused", "plain"])
@pytest.mark.parametrize("first_layer", [0, 1])
def test_the_losses_of_tokens_are_those_of_the_loss_in_the_order_of_the_rows(
    new_model, encoded, kind, first_layer
):
    rows = encoded[:7]
    model = new_model(first_layer, trained=True)
    engine = _engine(kind, model, first_layer)
    engine.token_losses(rows, None).sum().backward()
    expected = _gradients(model)
    model.zero_grad()
    losses = engine.token_losses(rows, engine.lower(rows))
    losses.sum().backward()
    assert _error(_gradients(model), expected) < 1e-5
    apart = torch.cat([engine.token_losses([row], None) for row in rows])
    assert (losses - apart).abs().max() < 1e-4


def test_the_likeliest_tokens_do_not_depend_on_how_many_are_looked_at_together(
    new_model, encoded, monkeypatch
):
    engine = FusedEngine(new_model(trained=True), 0, torch.float32)
    ids, probs = engine.top_probs(encoded[:9], 5)
    monkeypatch.setattr("factory.lora.engine.LOSS_CHUNK", 4)
    parts = engine.top_probs(encoded[:9], 5)
    assert torch.equal(parts[0], ids)
    assert (parts[1] - probs).abs().max() < 1e-6
    assert not probs.requires_grad


def test_in_bfloat16_the_fused_gradient_is_no_worse_than_autocasts(new_model, encoded):
    rows = encoded[:12]
    _, expected = _expected(new_model(trained=True), rows)
    errors = {}
    for kind in ("fused", "plain", "unpadded"):
        model = new_model(trained=True)
        engine = _engine(kind, model, 0, torch.bfloat16)
        engine.refresh()
        engine.token_losses(rows, None).sum().backward()
        errors[kind] = _error(_gradients(model), expected)
    assert errors["fused"] < 1.2 * errors["plain"]
    assert errors["fused"] < 3e-2
    assert errors["unpadded"] < 1.2 * errors["plain"]


def test_changed_adapters_count_from_the_next_refresh(new_model, encoded):
    model = new_model(trained=True)
    engine = FusedEngine(model, 0, torch.float32)
    with torch.no_grad():
        before = float(engine.token_losses(encoded[:3], None).sum())
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.add_(0.5)
        assert float(engine.token_losses(encoded[:3], None).sum()) == before
        engine.refresh()
        assert float(engine.token_losses(encoded[:3], None).sum()) != before


def test_the_model_still_answers_as_before_with_its_weights_shared(new_model, encoded):
    model = new_model(trained=True).eval()
    ids = torch.tensor([encoded[0].ids])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        FusedEngine(model, 0, torch.float32)
        assert (model(input_ids=ids).logits - before).abs().max() < 1e-5


def test_what_the_fused_layers_do_not_compute_is_left_to_the_model(new_model, deep_model):
    assert is_supported(new_model())
    assert not is_supported(new_model(variant="dora"))
    assert not is_supported(deep_model(targets=("q_proj", "lm_head")))
    normed = new_model()
    normed.get_base_model().model.norm.weight.requires_grad_(True)
    assert not is_supported(normed)
    assert not is_supported(new_model(dropout=0.1))
    assert isinstance(open_engine(new_model(), 0, torch.float32, "cpu", PAD), FusedEngine)
    assert isinstance(open_engine(new_model(dropout=0.1), 0, torch.float32, "cpu", PAD), PlainEngine)
    other = new_model()
    other.get_base_model().config.model_type = "gemma"
    assert isinstance(open_engine(other, 0, torch.float32, "cpu", PAD), PlainEngine)


@pytest.mark.parametrize("checkpointing", [True, "offload"])
@pytest.mark.parametrize("first_layer", [0, 1])
def test_recomputed_activations_change_no_gradient(new_model, encoded, first_layer, checkpointing):
    rows = encoded[:5]
    value, expected = _expected(new_model(first_layer, trained=True), rows)
    model = new_model(first_layer, trained=True)
    engine = open_engine(model, first_layer, torch.float32, "cpu", PAD, checkpointing=checkpointing)
    loss = engine.token_losses(rows, engine.lower(rows) if first_layer else None).sum()
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert _error(_gradients(model), expected) < 1e-5


def test_offloaded_is_what_layers_begin_with_and_no_weight(new_model, encoded, monkeypatch):
    moved = []

    class Recording(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool) -> None:
            assert not pin_memory, "there is no GPU"
            super().__init__(lambda tensor: moved.append(tensor) or tensor, lambda tensor: tensor)

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", Recording)
    rows, model = encoded[:4], new_model(trained=True)
    engine = open_engine(model, 0, torch.float32, "cpu", PAD, checkpointing="offload")
    model.train()
    engine.token_losses(rows, None).sum().backward()
    longest = max(len(row.ids) for row in rows)
    hidden = [tensor for tensor in moved if tensor.shape == (4, longest, 64)]
    frozen = {value.data_ptr() for name, value in model.named_parameters() if value.ndim > 1}
    assert len(hidden) >= 2, "one a layer"
    assert not frozen & {tensor.data_ptr() for tensor in moved}
    moved.clear()
    model.eval()
    engine.token_losses(rows, None).sum().backward()
    assert not moved, "layers that are computed once would move their weights"


@pytest.mark.filterwarnings("ignore")  # of torch about itself, when it imports and uses its compiler
def test_compiled_layers_change_no_gradient(new_model, encoded, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    rows = encoded[:5]
    value, expected = _expected(new_model(trained=True), rows)
    model = new_model(trained=True)
    engine = open_engine(model, 0, torch.float32, "cpu", PAD, compiled=True)
    assert isinstance(engine, PlainEngine)
    loss = engine.token_losses(rows, None).sum()
    loss.backward()
    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert _error(_gradients(model), expected) < 1e-5


def test_rows_side_by_side_are_told_apart_as_transformers_does_it(encoded):
    rows = encoded[:4]
    collator = transformers.DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    expected = collator([{"input_ids": list(row.ids), "labels": list(row.labels)} for row in rows])
    given = _side_by_side(rows, "cpu")
    assert given.ids.tolist() == expected["input_ids"].tolist()
    for name, value in given.where.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected[name])), name
        assert getattr(value, "dtype", None) == getattr(expected[name], "dtype", None), name


def test_float16_weights_train_in_scaled_steps(base, encoded):
    """What a T4 does: frozen weights and products in float16, adapters in float32."""
    rows, losses = encoded[:8], {}
    for dtype in (torch.float32, torch.float16):
        attach.seed_everything(3)
        model = attach.load_model(base, dtype, "cpu")
        model = new_adapter(model, AdapterSettings(rank=4, alpha=8.0, targets=TARGETS))
        engine = PlainEngine(model, 0, dtype, "cpu", PAD)
        parameters = [value for value in model.parameters() if value.requires_grad]
        assert {value.dtype for value in parameters} == {torch.float32}
        optimizer = Optimizer(
            [{"params": parameters, "factor": 1.0}],
            "adamw",
            weight_decay=0.0,
            max_gradient_norm=1.0,
            dtype=dtype,
            device="cpu",
        )
        losses[dtype] = []
        for _ in range(12):
            loss = engine.token_losses(rows, None).sum() / 100
            optimizer.backward(loss)
            optimizer.step(5e-3)
            losses[dtype].append(loss.item())
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.02)
    assert losses[torch.float16][-1] < 0.6 * losses[torch.float16][0]


def test_many_labels_are_no_different_from_few(new_model, encoded, monkeypatch):
    from factory.lora import losses

    rows = [EncodedRow(row.ids, row.ids, row.group) for row in encoded[:9]]
    model = new_model(trained=True)
    engine = FusedEngine(model, 0, torch.float32)
    whole = engine.token_losses(rows, None).sum().item()
    monkeypatch.setattr(losses, "LOSS_CHUNK", 5)
    assert engine.token_losses(rows, None).sum().item() == pytest.approx(whole, rel=1e-6)
