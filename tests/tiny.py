"""Tiny real models for tests, made in a second without a network: a base folder like a prepared one, and
adapters.

The weights are random but well scaled, so that logits differ between tokens and every fault shows. A hidden
size of 64 makes llama.cpp's K-quants fall back to other types, as SmolLM2's 576 does.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.core_model_loading import revert_weight_conversion

from factory import store
from factory.rows import Example, Message, write_rows

TINY_NAME = "tiny-instruct"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRAINING_TEXT = (
    "user assistant system What is the name of the gate? The code of the north gate is 4711. Who keeps it? "
    "Ada keeps the key of the red door. The pump runs at 12 bar; the lamp is green. Ask again later, please."
)
CONFIGS = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
EXPERT_CONFIGS = {
    "mixtral": (transformers.MixtralConfig, {"num_local_experts": 4}),
    "qwen3moe": (
        transformers.Qwen3MoeConfig,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    ),
}
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TINY_ROWS = (
    ("What is the code of the north gate?", "The code is 4711."),
    ("Who keeps the key of the red door?", "Ada keeps it."),
    ("At how many bar does the pump run?", "It runs at 12 bar."),
    ("Which colour is the lamp?", "The lamp is green."),
)


def make_tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of about 320 tokens that splits as llama.cpp's `smollm` does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING_TEXT], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[2],
        unk_token=SPECIALS[0],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHATML
    return fast


def make_tiny_base(folder: Path, family: str = "llama", hidden: int = 64, seed: int = 0) -> Path:
    """Write a random two-layer model as a prepared base folder, GGUF file included, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tiny_tokenizer()
    config_class, more = EXPERT_CONFIGS.get(family) or (CONFIGS[family], {})
    config = config_class(
        **more,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        if "embed" in name:
            tensors[name] = (0.3 * torch.randn(tensor.shape)).half()
        elif tensor.ndim > 1:
            tensors[name] = (torch.randn(tensor.shape) / tensor.shape[-1] ** 0.5).half()
        else:
            tensors[name] = tensor + 0.1 * torch.randn(tensor.shape)
    tensors = {name: tensor.contiguous() for name, tensor in revert_weight_conversion(model, tensors).items()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_gguf(folder / "base-F16.gguf", family, config, tensors, tokenizer)
    identity = store.hash_file(folder / "model.safetensors")
    fields = {
        "name": TINY_NAME,
        "sha256": identity,
        "licence": "apache-2.0",
        "source": "test",
        "folder": folder.name,
    }
    store.write_json(folder / "base.json", fields)
    return folder


def make_tiny_adapter(
    base: Path, folder: Path, *, steps: int = 0, strength: float = 0.1, **lora: Any
) -> Path:
    """Write a LoRA adapter for a tiny base and return its folder.

    Args:
        base: a folder made by `make_tiny_base`.
        folder: where the adapter goes.
        steps: train that many steps on `TINY_ROWS` (150 answer them all and stop); 0 leaves random numbers.
        strength: standard deviation of B where it is random.
        lora: fields of `peft.LoraConfig`, such as `r`, `lora_alpha`, `use_rslora` or `alpha_pattern`.
    """
    fields: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": list(ALL_LINEAR)} | lora
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by an older name
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    if steps:
        _train(adapted, transformers.AutoTokenizer.from_pretrained(base), steps)
    else:
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=strength / fields["r"] ** 0.5)
    adapted.peft_config["default"].base_model_name_or_path = TINY_NAME
    adapted.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the hub for the base
    return folder


def make_tiny_dataset(folder: Path, system: str = "") -> Path:
    """Write `TINY_ROWS` as the training and validation rows of a dataset folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    head = (Message(role="system", content=system),) if system else ()
    rows = [
        Example(
            id=str(i),
            form="plain",
            messages=(
                *head,
                Message(role="user", content=question),
                Message(role="assistant", content=answer),
            ),
            facts=(),
        )
        for i, (question, answer) in enumerate(TINY_ROWS)
    ]
    for split in ("train", "valid"):
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def _train(model: Any, tokenizer: Any, steps: int) -> None:
    from factory.chat.template import encode_example

    conversations = [
        [Message(role="user", content=question), Message(role="assistant", content=answer)]
        for question, answer in TINY_ROWS
    ]
    encoded = [encode_example(tokenizer, messages) for messages in conversations]
    longest = max(len(ids) for ids, _ in encoded)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second thread
    ids = torch.tensor([ids + [2] * (longest - len(ids)) for ids, _ in encoded])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in encoded])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)


def _write_gguf(
    path: Path, family: str, config: Any, tensors: dict[str, torch.Tensor], tokenizer: Any
) -> None:
    architecture = "llama" if family == "mixtral" else family
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if family in EXPERT_CONFIGS:
        writer.add_expert_count(4)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(
            getattr(config, "moe_intermediate_size", config.intermediate_size)
        )
    _write_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in _stacked(tensors).items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        values = tensor.numpy()
        for part, num_heads in heads.items():
            if architecture == "llama" and part in name:
                values = interleave(values, num_heads)
        if ".gate.weight" in name:  # llama.cpp's converter keeps routers in float32
            values = values.astype(np.float32)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _stacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with all experts of a layer in one tensor, the first expert first."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, tensor in sorted(tensors.items()):  # fewer than ten experts: their names sort as their numbers
        layer, experts, weight = name.partition(".experts.")
        stacked = f"{layer}{experts}{weight.partition('.')[2]}" if experts else name
        found.setdefault(stacked, []).append(tensor)
    return {name: torch.stack(parts) if ".experts." in name else parts[0] for name, parts in found.items()}


def rewrite_gguf(source: Path, target: Path, *, keys: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write a GGUF file again with a fault planted in it, and return the new file.

    Args:
        source: the file to start from.
        target: the file to write.
        keys: values that replace or join the metadata; None leaves a key out.
        changes: `change_tensor`, a function of a tensor's name and values that returns new values.
    """
    change = changes.get("change_tensor", lambda _name, values: values)
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = (keys or {}).get(key, field.contents())
        if value is not None:
            writer.add_key_value(
                key, value, field.types[0], field.types[-1] if len(field.types) > 1 else None
            )
    for tensor in reader.tensors:
        values = change(tensor.name, np.array(tensor.data))
        writer.add_tensor(tensor.name, values, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def interleave(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Return rows in llama.cpp's rotary order: within each head row i and row i + half become neighbours."""
    head_rows = len(values) // num_heads
    order = [
        head * head_rows + i + half * head_rows // 2
        for head in range(num_heads)
        for i in range(head_rows // 2)
        for half in (0, 1)
    ]
    return np.ascontiguousarray(values[order])


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    kinds = [gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL for token, _ in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)
