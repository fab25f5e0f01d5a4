"""Verify: show that merged model and GGUF files behave like the adapter that was trained. Stops no run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from factory import hardware, store
from factory.errors import EvaluateError
from factory.progress import Progress

if TYPE_CHECKING:
    from factory.weights.file_judge import FileJudge

CODE_VERSION = 3
F16_FILE, ADAPTER_FILE = "model-F16.gguf", "adapter.gguf"


class VerifyConfig(BaseModel):
    """The limits of the gates, and how much is measured.

    Differences are means over positions of the largest difference among the five likeliest tokens, in nats:
    SmolLM2-135M shows 0.006 merged, 0.011 as F16 file and 0.013 for the adapter file, a wrong scale or row
    order whole nats. Divergences are means over answer tokens, on the usual scale of 0.01 near-lossless, 0.05
    good and 0.1 usable: SmolLM2-135M shows 0.001 as Q8_0 and 0.03 as Q4_K_M.
    The 8-bit limits are Q8_0's, the 4-bit limits every other type's.

    `max_merged_difference`, `max_f16_difference` and `max_adapter_difference` bound a file's difference to
    the adapter as trained, `min_adapter_effect` is what the adapter must change in its base.
    `max_divergence_8bit`, `max_divergence_4bit`, `min_same_top_8bit` and `min_same_top_4bit` bound a
    quantized file's divergence from F16 and the share of tokens both find likeliest; `min_ended` is the share
    of answers that end by themselves.

    Measured are the token ids of `text_lines` lines, `compared_tokens` and `scored_tokens` of conversations,
    and answers of up to `answer_tokens` to as many `prompts`; `threads` 0 takes all cores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_merged_difference: float = Field(default=0.02, gt=0)
    max_f16_difference: float = Field(default=0.05, gt=0)
    max_adapter_difference: float = Field(default=0.05, gt=0)
    min_adapter_effect: float = Field(default=0.01, gt=0)
    max_divergence_8bit: float = Field(default=0.02, gt=0)
    max_divergence_4bit: float = Field(default=0.1, gt=0)
    min_same_top_8bit: float = Field(default=0.95, ge=0, le=1)
    min_same_top_4bit: float = Field(default=0.85, ge=0, le=1)
    min_ended: float = Field(default=0.95, ge=0, le=1)
    prompts: int = Field(default=20, ge=1)
    compared_tokens: int = Field(default=384, ge=1)
    scored_tokens: int = Field(default=512, ge=2)
    text_lines: int = Field(default=200, ge=0)
    answer_tokens: int = Field(default=96, ge=8)
    threads: int = Field(default=0, ge=0, le=1024, exclude=True)


def verify(
    config: VerifyConfig,
    *,
    adapter: Path,
    merged: Path,
    gguf: Path,
    base: Path,
    dataset: Path,
    work: Path,
    system: str,
) -> dict[str, Any]:
    """Measure every exported file and write `gates.json` and `files.json`.

    A gate that is not met is written down, not raised. A file passes in `files.json` when it met all of its gates
    and so did all files it was made from.

    Args:
        config: the limits.
        adapter: the adapter folder, which all files are compared with.
        merged: the merged model's folder.
        gguf: folder with `model-*.gguf` and, where the format can hold it, `adapter.gguf`.
        base: the prepared base folder.
        dataset: folder with `valid.jsonl` and `train.jsonl`, whose conversations are measured on.
        work: where the two files go.
        system: the recipe's system text.

    Returns:
        Counts for the record.

    Raises:
        EvaluateError: there is no F16 file to measure, or no conversation to measure on.
    """
    from factory.weights.equivalence import Sizes, gather
    from factory.weights.file_judge import FileJudge

    if not (gguf / F16_FILE).is_file():
        raise EvaluateError(f"{str(gguf)!r} holds no {F16_FILE}: run quantize first")
    sizes = Sizes(
        config.prompts, config.compared_tokens, config.scored_tokens, config.text_lines, config.answer_tokens
    )
    probe = gather(merged, dataset, system, sizes)
    judge = FileJudge(probe, config, config.threads or hardware.num_cores())

    checks = _checks(judge, base, adapter, merged, gguf)
    with Progress("verify") as bar:
        for done, (subject, check) in enumerate(checks):
            bar.update(done, len(checks), subject)
            check()

    gates = judge.gates
    store.write_json(work / "gates.json", gates.rows())
    store.write_json(work / "files.json", gates.files())
    failed = [f"{gate.name} {gate.subject}" for gate in gates.gates if not gate.passed]
    return {
        "gates": len(gates.gates),
        "failed": failed,
        "texts": len(probe.texts),
        "prompts": len(probe.prompts),
    }


def _checks(
    judge: "FileJudge", base: Path, adapter: Path, merged: Path, gguf: Path
) -> list[tuple[str, Callable[[], None]]]:
    """Return what is judged, by its name and in the order that the judge needs."""
    checks: list[tuple[str, Callable[[], None]]] = [
        ("weights", partial(judge.judge_weights, base, adapter, merged)),
        (F16_FILE, partial(judge.judge_f16, gguf / F16_FILE)),
    ]
    if (gguf / ADAPTER_FILE).exists():
        checks.append((ADAPTER_FILE, partial(judge.judge_adapter_file, base, gguf / ADAPTER_FILE)))
    for path in sorted(gguf.glob("model-*.gguf")):
        if path.name != F16_FILE:
            checks.append((path.name, partial(judge.judge_quantized, path)))
    return checks
