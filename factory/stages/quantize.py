"""Quantize: merged model → GGUF files that llama.cpp and Ollama run, and the adapter as one of them."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from factory import hardware, store
from factory.errors import QuantizeError
from factory.progress import Progress

CODE_VERSION = 2
REPORT = "quantize.json"
F16_FILE, ADAPTER_FILE, IMATRIX_FILE = "model-F16.gguf", "adapter.gguf", "imatrix.npz"
SPARE_BYTES = 64 << 20
FileType = Literal[
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K"
]
logger = logging.getLogger(__name__)


class QuantizeConfig(BaseModel):
    """Which files are made beside `model-F16.gguf`.

    `types` are llama.cpp's names. `imatrix_tokens` is how much of the training text says which weights
    matter; 0 leaves that out; `threads` 0 takes all cores. 6,144 tokens cut the KL divergence of a 135M
    model's 4-bit file by a third.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    types: tuple[FileType, ...] = ("Q8_0", "Q4_K_M")
    imatrix_tokens: int = Field(default=6144, ge=0, le=1_000_000)
    threads: int = Field(default=0, ge=0, le=1024, exclude=True)


def quantize(
    config: QuantizeConfig, *, adapter: Path, merged: Path, base: Path, dataset: Path, work: Path
) -> dict[str, Any]:
    """Write the GGUF files of a merged model and of its adapter, and `quantize.json` about them.

    Files that an interrupted run has finished are kept.

    Args:
        config: which files.
        adapter: the adapter folder.
        merged: the merged model's folder.
        base: the prepared base folder, whose `base-F16.gguf` gives tokenizer, template and layout.
        dataset: folder with `train.jsonl`, the text that the importance matrix is measured on.
        work: where the files go.

    Returns:
        Counts for the record.

    Raises:
        QuantizeError: the architecture is not known, a weight has no place in the file, the quantizer failed,
            or the disk is too small.
    """
    from factory.weights import delta, gguf_files, quantizer
    from factory.weights.imatrix import make_imatrix
    from factory.weights.unfinished import sweep

    sweep(work)
    identity = store.read_json(base / "base.json")
    name = f"{identity['name']} adapted"
    threads = config.threads or hardware.num_cores()
    source, imatrix = work / F16_FILE, work / IMATRIX_FILE
    _check_room(base / gguf_files.BASE_FILE, work, len(config.types))

    def quantize_as(kind: str) -> Callable[[Path], object]:
        weights = imatrix if config.imatrix_tokens else None
        return lambda path: quantizer.quantize_file(source, path, kind, weights, threads)

    with Progress("quantize") as bar:
        files = _Files(work, bar, num_files=3 + len(config.types))
        files.make(F16_FILE, lambda path: gguf_files.write_merged_gguf(base, merged, path, name), "F16")
        lora = delta.read_adapter(adapter)
        if lora.obstacle is None:
            sha256 = str(identity["sha256"])
            files.make(
                ADAPTER_FILE,
                lambda path: gguf_files.write_adapter_gguf(lora, base, path, name, sha256),
                "F16",
            )
        else:
            files.skip(ADAPTER_FILE, lora.obstacle)
        files.begin(IMATRIX_FILE)
        if config.imatrix_tokens and not imatrix.exists():
            make_imatrix(imatrix, merged, dataset, base, config.imatrix_tokens)
        for kind in config.types:
            files.make(f"model-{kind}.gguf", quantize_as(kind), kind)
    return files.counts()


class _Files:
    """The report `quantize.json`, written anew after each file: a file listed there is known to be whole."""

    def __init__(self, work: Path, bar: Progress, num_files: int) -> None:
        self._path = work / REPORT
        self._bar, self._begun, self._num_files = bar, 0, num_files
        self._report: dict[str, Any] = (
            store.read_json(self._path) if self._path.exists() else {"files": {}, "skipped": {}}
        )

    def begin(self, name: str) -> None:
        """Show that the work on a file begins."""
        self._bar.update(self._begun, self._num_files, name)
        self._begun += 1

    def make(self, name: str, write: Callable[[Path], object], kind: str) -> None:
        """Let `write` make a file unless it is there already, and report on it."""
        from factory.weights.quantizer import effective_mix

        self.begin(name)
        path = self._path.with_name(name)
        known = self._report["files"].get(name)
        if known and path.exists() and path.stat().st_size == known["bytes"]:
            return
        started = time.perf_counter()
        write(path)
        mix = effective_mix(path, kind)
        self._report["files"][name] = mix | {
            "bytes": path.stat().st_size,
            "sha256": store.hash_file(path),
            "seconds": round(time.perf_counter() - started, 3),
        }
        store.write_json(self._path, self._report)
        types = ", ".join(f"{count} {kind}" for kind, count in mix["types"].items())
        logger.info(
            "%s holds %s: %.2f bits a weight, %d fallbacks, %.1f MB",
            *(name, types, mix["bits_per_weight"], mix["num_fallbacks"], path.stat().st_size / 1e6),
        )

    def skip(self, name: str, reason: str) -> None:
        """Report a file that cannot be made."""
        self.begin(name)
        self._report["skipped"][name] = reason
        store.write_json(self._path, self._report)
        logger.warning("%s is not written: %s", name, reason)

    def counts(self) -> dict[str, Any]:
        """Return the sizes of all files in bytes, and what was skipped."""
        sizes = {name: entry["bytes"] for name, entry in self._report["files"].items()}
        return {"files": sizes, "skipped": self._report["skipped"]}


def _check_room(f16: Path, work: Path, num_types: int) -> None:
    """Make sure that the disk can take the files: none is larger than the F16 one."""
    needed = f16.stat().st_size * (1 + num_types) + SPARE_BYTES
    free = hardware.free_disk_bytes(work)
    if free < needed:
        raise QuantizeError(
            f"The GGUF files need up to {needed:,} bytes, {str(work)!r} has {free:,} left: free some"
        )
