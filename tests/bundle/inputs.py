"""What the export stage reads, made small: real GGUF and safetensors files of a few bytes, and the other artefacts."""

import json
import struct

import gguf
import numpy as np

from factory import store
from tests.chat.test_turns import CHATML
from tests.report.conftest import MIX, write_json, write_record, write_run

MODEL_FILES = ("model-F16.gguf", "model-Q4_K_M.gguf", "model-Q8_0.gguf")
BITS = {"model-F16.gguf": 16.0, "model-Q4_K_M.gguf": 6.2, "model-Q8_0.gguf": 8.5, "adapter.gguf": 16.0}
ADDED_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_gguf(path, template=CHATML, name="tiny", context=8192):
    """Write a GGUF file with one tensor, whose bytes depend on its file name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_token_list(["<s>", "ada", "/home/"])
    if template:
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.full((2, 32), len(path.name), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_safetensors(path, metadata=None):
    """Write a safetensors file with one tensor."""
    header = {
        "__metadata__": metadata or {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    }
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + b"\0" * 8)


def write_inputs(out, failing=(), template=CHATML):
    """Write every folder the export stage reads and return its arguments, but `work`."""
    write_run(out, failing)
    write_json(
        out / "adapter/adapter_config.json", {"base_model_name_or_path": "smollm2-135m-instruct", "r": 32}
    )
    write_safetensors(out / "adapter/adapter_model.safetensors")
    (out / "merged/chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(out / "merged/tokenizer_config.json", {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    write_json(
        out / "merged/tokenizer.json", {"added_tokens": [{"content": token} for token in ADDED_TOKENS]}
    )
    files = {}
    for name in (*MODEL_FILES, "adapter.gguf"):
        path = out / "gguf" / name
        write_gguf(path, template if name != "adapter.gguf" else None)
        size, digest = path.stat().st_size, store.hash_file(path)
        files[name] = MIX | {"bytes": size, "sha256": digest, "seconds": 1.0, "bits_per_weight": BITS[name]}
    write_json(out / "gguf/quantize.json", {"files": files, "skipped": {}})
    (out / "base").mkdir(exist_ok=True)
    identity = {
        "name": "smollm2-135m-instruct",
        "sha256": "7" * 64,
        "licence": "apache-2.0",
        "source": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "folder": "smollm2-135m-instruct-777",
    }
    write_json(out / "base/base.json", identity)
    write_record(
        out / "dataset", {"train": 13_870, "facts": 2210, "facts_withheld": 88, "unseen_phrasing": 150}
    )
    return {
        name: out / name for name in ("adapter", "merged", "gguf", "checks", "evaluation", "dataset", "base")
    }
