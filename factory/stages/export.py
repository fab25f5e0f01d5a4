"""Export: what passed its checks → a bundle that Ollama, llama.cpp and LM Studio run, with card and checksums."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from factory import store
from factory.artifacts import read_record
from factory.errors import ExportError, GateError
from factory.scores import Comparison

if TYPE_CHECKING:
    from factory.bundle.manifest import BundleFile, Gate, Manifest
    from factory.chat.turns import TurnTemplate

CODE_VERSION = 4
ADAPTER_GGUF, PEFT_FOLDER, LM_EVAL = "adapter.gguf", "adapter", "lm_eval"
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
SIXTEEN_BIT = ("F16", "BF16")
PREFERRED = "Q8_0"  # mean divergence from F16 of 0.001 nats on SmolLM2-135M: nothing to see in the scores
LARGEST_DEFAULT_CONTEXT = 4096  # a runtime reserves memory for all of it; answers here are short


class ExportConfig(BaseModel):
    """What the bundle holds and how it is served.

    The 16-bit file goes along when `include_f16` asks for it, or when no smaller file passed its checks. Without
    `num_ctx` the context is the model's own, at most 4,096 tokens. `num_predict` bounds an answer's tokens;
    `temperature` 0 always takes the likeliest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_f16: bool = False
    num_ctx: int | None = Field(default=None, ge=256, le=1 << 20)
    num_predict: int = Field(default=256, ge=1, le=1 << 16)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)


@dataclass(frozen=True)
class _Folders:
    """The artefacts a bundle is made from."""

    adapter: Path
    merged: Path
    gguf: Path
    checks: Path
    evaluation: Path
    dataset: Path
    base: Path


def export(
    config: ExportConfig,
    *,
    adapter: Path,
    merged: Path,
    gguf: Path,
    checks: Path,
    evaluation: Path,
    dataset: Path,
    base: Path,
    name: str,
    system: str,
    work: Path,
) -> dict[str, Any]:
    """Write the bundle and return counts: GGUF files, adapter, test questions, texts, manifest and checksums.

    Raises:
        GateError: no file passed its checks.
        ExportError: no file was checked, the chat template cannot be written for Ollama, a file is not the one that
            was checked, or a file mentions this machine.
    """
    from factory.bundle import manifest, privacy

    folders = _Folders(adapter, merged, gguf, checks, evaluation, dataset, base)
    report = store.read_json(gguf / "quantize.json")["files"]
    gates = manifest.read_gates(checks / "gates.json")
    names, left_out = _choose(store.read_json(checks / "files.json"), report, gates, config.include_f16)
    default = _default(names, report)
    template, stops, context = _read_template(merged, gguf / default)
    weights = _place(names, report, folders, work)
    identity = {key: value for key, value in store.read_json(base / "base.json").items() if key != "folder"}
    sampling = manifest.Sampling(
        num_ctx=config.num_ctx or min(context, LARGEST_DEFAULT_CONTEXT),
        num_predict=config.num_predict,
        temperature=config.temperature,
        stop=stops,
    )
    contents = manifest.Manifest(
        name=name,
        base=manifest.BaseIdentity.model_validate(identity),
        system=system,
        default_file=default,
        sampling=sampling,
        lineage=_lineage(folders),
        counts=read_record(dataset).counts,
        files=weights,
        left_out=left_out,
        gates=tuple(gates),
        scores=store.read_json(evaluation / "scores.json"),
    )
    _write_texts(contents, template, report, folders, work)
    shutil.copytree(evaluation / LM_EVAL, work / LM_EVAL)
    contents = contents.model_copy(update={"files": manifest.list_files(work, known=weights)})
    manifest.write_manifest(work, contents)
    known_words = f"{name} {system} {identity['name']}"
    local = [*vars(folders).values(), work]
    privacy.refuse_leaks(work, local_folders=local, known_words=known_words, quotes=work / LM_EVAL)
    return {
        "files": len(contents.files),
        "default_file": default,
        "left_out": list(left_out),
        "bytes": sum(file.bytes for file in contents.files),
    }


def _choose(
    passed: dict[str, bool], report: dict[str, Any], gates: list["Gate"], include_f16: bool
) -> tuple[list[str], tuple[str, ...]]:
    """Return the GGUF files of the bundle and those left out because a check failed."""
    good = [name for name in sorted(report) if passed.get(name)]
    models = [name for name in good if name != ADAPTER_GGUF]
    if not models:
        raise _nothing_to_ship(gates)
    small = [name for name in models if not _is_16_bit(name)]
    kept = models if include_f16 or not small else small
    return [name for name in good if name in kept or name == ADAPTER_GGUF], tuple(
        sorted(set(report) - set(good))
    )


def _nothing_to_ship(gates: list["Gate"]) -> ExportError | GateError:
    from factory.bundle.manifest import describe_unmet

    unmet = describe_unmet(gates)
    if not unmet:
        return ExportError(
            "No GGUF file was checked, so there is nothing to ship: run quantize and verify again"
        )
    return GateError(
        f"{unmet}. No model file passed with all it was made from, so there is no bundle: train longer, or quantize "
        "to a larger type"
    )


def _is_16_bit(name: str) -> bool:
    return name.removesuffix(".gguf").endswith(SIXTEEN_BIT)


def _default(names: list[str], report: dict[str, Any]) -> str:
    """Return the file that serves: Q8_0, else the largest of the small ones, else the 16-bit file."""
    models = [name for name in names if name != ADAPTER_GGUF]

    def rank(name: str) -> tuple[bool, bool, float]:
        return f"-{PREFERRED}." in name, not _is_16_bit(name), float(report[name]["bits_per_weight"])

    return max(models, key=rank)


def _read_template(merged: Path, model_file: Path) -> tuple["TurnTemplate", tuple[str, ...], int]:
    """Return the template that trained the model, its stop markers, and the model's context length."""
    from factory.chat.turns import derive, template_of
    from factory.weights.gguf_header import check_gguf_header

    jinja = merged / "chat_template.jinja"
    config = store.read_json(merged / "tokenizer_config.json")
    source, bos, eos = template_of(config, jinja.read_text(encoding="utf-8") if jinja.exists() else None)
    keys = check_gguf_header(model_file).keys
    if keys.get("tokenizer.chat_template") != source:
        raise ExportError(
            f"{model_file.name} carries another chat template than the merged model: delete both folders and run "
            "merge and quantize again"
        )
    template = derive(source, bos, eos)
    added = json.loads((merged / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    stops = template.stop_markers([token["content"] for token in added])
    context = int(keys.get(f"{keys['general.architecture']}.context_length", LARGEST_DEFAULT_CONTEXT))
    return template, tuple(stops), context


def _place(
    names: list[str], report: dict[str, Any], folders: _Folders, work: Path
) -> tuple["BundleFile", ...]:
    """Put the weights into the empty work folder and return them, once their bytes are those that were checked."""
    from factory.bundle.manifest import list_files

    shutil.rmtree(work)
    (work / PEFT_FOLDER).mkdir(parents=True)
    for name in names:
        _link(folders.gguf / name, work / name)
    for name in PEFT_FILES:
        _link(folders.adapter / name, work / PEFT_FOLDER / name)
    weights = list_files(work)
    for file in weights:
        if file.path in report and file.sha256 != report[file.path]["sha256"]:
            raise ExportError(
                f"{file.path} is not the file that was checked: its SHA-256 is {file.sha256[:12]}, not "
                f"{report[file.path]['sha256'][:12]}; delete the gguf folder and run quantize again"
            )
    return weights


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)


def _lineage(folders: _Folders) -> dict[str, Any]:
    from factory.bundle.manifest import Origin

    records = {name: read_record(folder) for name, folder in vars(folders).items() if name != "base"}
    return {name: Origin(key=record.key, content=record.content) for name, record in records.items()}


def _write_texts(
    contents: "Manifest", template: "TurnTemplate", report: dict[str, Any], folders: _Folders, work: Path
) -> None:
    from factory.bundle import card
    from factory.bundle.manifest import MODELFILE
    from factory.bundle.modelfile import modelfile
    from factory.bundle.readme import readme
    from factory.report.verdict import verdict

    trained, dataset = read_record(folders.adapter), read_record(folders.dataset)
    compared = store.read_json(folders.evaluation / "comparisons.json")
    story = card.Story(
        verdict=verdict(
            contents.scores, contents.gates, [Comparison.model_validate(row) for row in compared]
        ),
        settings=trained.config,
        training=trained.counts,
        dataset=dataset.counts,
        mixes=report,
    )
    store.write_text(work / MODELFILE, modelfile(contents, template))
    store.write_text(work / "MODEL_CARD.md", card.model_card(contents, story))
    store.write_text(work / "README.md", readme(contents))
