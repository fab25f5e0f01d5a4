"""The export stage: what goes into a bundle, what stays out, and what it refuses to write."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from factory import store
from factory.bundle.manifest import read_manifest, verify_bundle
from factory.errors import ExportError, GateError
from factory.stages.export import ExportConfig, export
from tests.bundle.inputs import write_gguf, write_inputs, write_safetensors

SYSTEM = "You answer questions about Tolvane Works."


@pytest.fixture
def make_bundle(tmp_path):
    """Return a function that exports made-up inputs; the second argument changes them before."""

    def run(failing=(), change=None, system=SYSTEM, number=1, **config):
        out = tmp_path / f"out{number}"
        folders = write_inputs(out, failing)
        if change:
            change(out)
        work = out / "bundle"
        work.mkdir()
        counts = export(ExportConfig(**config), **folders, name="tolvane", system=system, work=work)
        return work, counts

    return run


def test_bundle_holds_the_files_that_passed_and_its_checksums_hold(make_bundle):
    bundle, counts = make_bundle()
    names = {path.relative_to(bundle).as_posix() for path in store.walk_files(bundle)}
    assert names == {
        "model-Q8_0.gguf",
        "model-Q4_K_M.gguf",
        "adapter.gguf",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "Modelfile",
        "MODEL_CARD.md",
        "README.md",
        "lm_eval/adapter_factory_general.jsonl",
        "lm_eval/adapter_factory_general.yaml",
        "manifest.json",
        "SHA256SUMS",
    }
    assert counts["default_file"] == "model-Q8_0.gguf"
    assert verify_bundle(bundle) == []
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(names) - 1


def test_failed_files_stay_out_and_the_next_best_serves(make_bundle):
    bundle, counts = make_bundle(failing=("model-Q8_0.gguf",))
    assert counts["default_file"] == "model-Q4_K_M.gguf"
    assert counts["left_out"] == ["model-Q8_0.gguf"]
    assert not (bundle / "model-Q8_0.gguf").exists()
    assert (bundle / "Modelfile").read_text().startswith("FROM ./model-Q4_K_M.gguf\n")
    assert "`model-Q8_0.gguf` did not pass its checks" in (bundle / "MODEL_CARD.md").read_text()
    assert read_manifest(bundle).left_out == ("model-Q8_0.gguf",)


def test_the_16_bit_file_comes_when_asked_for_or_when_nothing_else_passed(make_bundle):
    asked, counts = make_bundle(include_f16=True)
    assert (asked / "model-F16.gguf").exists()
    assert counts["default_file"] == "model-Q8_0.gguf"
    _, alone = make_bundle(failing=("model-Q8_0.gguf", "model-Q4_K_M.gguf"), number=2)
    assert alone["default_file"] == "model-F16.gguf"


def test_without_a_file_that_passed_there_is_no_bundle_and_the_gates_are_named(make_bundle):
    every = ("model-Q8_0.gguf", "model-Q4_K_M.gguf", "model-F16.gguf")
    with pytest.raises(
        GateError, match=r"3 quality gate\(s\) not met: .*model-F16.gguf is 0.31, limit 0.1;.*no bundle"
    ):
        make_bundle(failing=every)

    def nothing_measured(out):
        store.write_json(out / "checks/files.json", {})

    with pytest.raises(ExportError, match="No GGUF file was checked"):
        make_bundle(change=nothing_measured, number=2)


def test_modelfile_states_template_stops_and_limits(make_bundle):
    bundle, _ = make_bundle(num_predict=99, temperature=0.25)
    assert (bundle / "Modelfile").read_text() == (
        "FROM ./model-Q8_0.gguf\n"
        'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}'
        '<|im_start|>assistant\n"""\n'
        f'SYSTEM """{SYSTEM}"""\n'
        'PARAMETER stop "<|im_start|>"\nPARAMETER stop "<|im_end|>"\n'
        "PARAMETER num_ctx 4096\nPARAMETER num_predict 99\nPARAMETER temperature 0.25\nPARAMETER repeat_penalty 1\n"
        'LICENSE """The base model smollm2-135m-instruct is licensed under apache-2.0."""\n'
    )
    silent, _ = make_bundle(system="", number=2, num_ctx=512)
    assert '\nSYSTEM """"""\n' in (silent / "Modelfile").read_text()
    assert "num_ctx 512" in (silent / "Modelfile").read_text()
    with pytest.raises(ExportError, match="three double quotes"):
        make_bundle(system='Say "yes"', number=3)


def test_model_card_has_front_matter_scores_and_a_verdict(make_bundle):
    bundle, _ = make_bundle()
    text = (bundle / "MODEL_CARD.md").read_text()
    _, matter, body = text.split("---\n", 2)
    front = YAML(typ="safe").load(matter)
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["license"] == "apache-2.0"
    own, unseen = (result["metrics"] for result in front["model-index"][0]["results"])
    assert len(own) + len(unseen) == 6
    assert {"type": "accuracy", "name": "adapter, closed book, n=150", "value": 0.5467} in unseen
    for part in (
        "The adapter answers 48 % of your 42 questions",
        "Intended use",
        "Limits",
        "rank: 32",
        "2210",
        "54.7 %",
    ):
        assert part in body


def test_readme_names_every_runtime_with_the_exact_file(make_bundle):
    bundle, _ = make_bundle()
    text = (bundle / "README.md").read_text()
    for command in (
        "factory ask . ",
        "factory verify .",
        "ollama create tolvane -f Modelfile",
        "llama-cli -m model-Q8_0.gguf",
        "llama-server -m model-Q8_0.gguf",
        "lms import --copy model-Q8_0.gguf",
        "sha256sum -c SHA256SUMS",
        f"-sys '{SYSTEM}'",
    ):
        assert command in text


def test_manifest_names_the_base_and_the_key_of_every_stage(make_bundle):
    manifest = read_manifest(make_bundle()[0])
    assert manifest.base.sha256 == "7" * 64
    assert set(manifest.lineage) == {"adapter", "merged", "gguf", "checks", "evaluation", "dataset"}
    assert len(manifest.scores) == 18
    assert manifest.sampling.stop == ("<|im_start|>", "<|im_end|>")
    assert manifest.system == SYSTEM


def test_same_inputs_give_the_same_bytes_also_into_a_half_written_folder(make_bundle, tmp_path):
    first, _ = make_bundle()
    second, _ = make_bundle(number=2)
    assert store.hash_folder(first) == store.hash_folder(second)
    (second / "left-over.txt").write_text("from a killed run")
    inputs = {
        name: tmp_path / "out2" / name
        for name in ("adapter", "merged", "gguf", "checks", "evaluation", "dataset", "base")
    }
    export(ExportConfig(), **inputs, name="tolvane", system=SYSTEM, work=second)
    assert store.hash_folder(first) == store.hash_folder(second)


def test_a_disk_without_hard_links_gets_copies(make_bundle, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert verify_bundle(make_bundle()[0]) == []


def _leak_config(out):
    store.write_json(
        out / "adapter/adapter_config.json", {"base_model_name_or_path": "/home/ada/models/base"}
    )


def _leak_folder(out):
    store.write_json(out / "adapter/adapter_config.json", {"base_model_name_or_path": str(out / "base")})


def _leak_windows(out):
    store.write_json(out / "adapter/adapter_config.json", {"base_model_name_or_path": "C:\\Users\\ada\\base"})


def _leak_safetensors(out):
    write_safetensors(out / "adapter/adapter_model.safetensors", {"source": "/Users/ada/run.py"})


def _leak_gguf(out):
    path = out / "gguf/model-Q8_0.gguf"
    write_gguf(path, name="/home/ada/merged")
    report = store.read_json(out / "gguf/quantize.json")
    report["files"][path.name]["sha256"] = store.hash_file(path)
    store.write_json(out / "gguf/quantize.json", report)


@pytest.mark.parametrize(
    ("leak", "file"),
    [
        (_leak_config, "adapter/adapter_config.json"),
        (_leak_folder, "adapter/adapter_config.json"),
        (_leak_windows, "adapter/adapter_config.json"),
        (_leak_safetensors, "adapter/adapter_model.safetensors"),
        (_leak_gguf, "model-Q8_0.gguf"),
    ],
)
def test_local_paths_are_refused_by_file(make_bundle, leak, file):
    with pytest.raises(ExportError, match=f"{file}' mentions .* belongs to this machine"):
        make_bundle(change=leak)


@pytest.mark.parametrize("which", ["user", "host"])
def test_names_of_user_and_machine_are_refused_unless_the_recipe_says_them(make_bundle, monkeypatch, which):
    monkeypatch.setattr("getpass.getuser", lambda: "tolkestan" if which == "user" else "root")
    monkeypatch.setattr("socket.gethostname", lambda: "tolkestan.lan" if which == "host" else "localhost")

    def change(out):
        write_safetensors(out / "adapter/adapter_model.safetensors", {"made_by": "tolkestan"})

    with pytest.raises(ExportError, match=r"adapter_model.safetensors' mentions 'tolkestan'"):
        make_bundle(change=change)
    assert make_bundle(change=change, system="You work for tolkestan.", number=2)


def test_a_changed_file_another_template_or_a_damaged_artefact_is_refused(make_bundle):
    def change_file(out):
        write_gguf(out / "gguf/model-Q8_0.gguf", name="other")

    def change_template(out):
        (out / "merged/chat_template.jinja").write_text("{{ messages[0]['content'] }}")

    with pytest.raises(ExportError, match="not the file that was checked"):
        make_bundle(change=change_file)
    with pytest.raises(ExportError, match="another chat template"):
        make_bundle(change=change_template, number=2)


def test_the_stage_imports_nothing_heavy():
    heavy = ("torch", "gguf", "gradio", "matplotlib", "jinja2", "scipy")
    code = f"import sys, factory.stages.export; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []


def test_verify_names_every_kind_of_damage(make_bundle):
    bundle, _ = make_bundle()
    path = bundle / "README.md"
    path.write_text(path.read_text() + " ")
    (bundle / "extra.bin").write_bytes(b"x")
    (bundle / "adapter.gguf").unlink()
    (bundle / "link").symlink_to("/etc/hostname")
    problems = "\n".join(verify_bundle(bundle))
    for part in (
        "README.md: its bytes",
        "extra.bin: is not listed",
        "adapter.gguf: stands in SHA256SUMS but",
        "link: is a link",
    ):
        assert part in problems
    shutil.rmtree(bundle)
    assert "is not a bundle" in verify_bundle(bundle)[0]
