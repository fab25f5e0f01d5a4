"""One file after another held against the adapter it came from: measures with `equivalence`, notes gates."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from factory.errors import BaseModelError, EvaluateError
from factory.weights import equivalence
from factory.weights.gates import Gates
from factory.weights.gguf_files import BASE_FILE
from factory.weights.gguf_model import GgufModel

ADAPTER_WEIGHTS, MERGED_WEIGHTS = "adapter_model.safetensors", "model.safetensors"
F16_FILE = "model-F16.gguf"
EIGHT_BIT_FILE = "model-Q8_0.gguf"
logger = logging.getLogger(__name__)


class Limits(Protocol):
    """The limits of the gates; `VerifyConfig` says where they come from."""

    max_merged_difference: float
    max_f16_difference: float
    max_adapter_difference: float
    min_adapter_effect: float
    max_divergence_8bit: float
    max_divergence_4bit: float
    min_same_top_8bit: float
    min_same_top_4bit: float
    min_ended: float


class FileJudge:
    """Judges the files of one run; `gates` grows with each. The weights come first, then F16, then the others.

    A file rests on the one it was made from: however equal to it, it is no better. The adapter file rests on the
    F16 file, by which it is measured.
    """

    def __init__(self, probe: equivalence.Probe, limits: Limits, threads: int) -> None:
        """Start without gates."""
        self.gates = Gates(rests_on={MERGED_WEIGHTS: ADAPTER_WEIGHTS, F16_FILE: MERGED_WEIGHTS})
        self._probe, self._limits, self._threads = probe, limits, threads
        self._reference: equivalence.AdapterReference
        self._f16: equivalence.F16Reference

    def judge_weights(self, base: Path, adapter: Path, merged: Path) -> None:
        """Judge the adapter by its base, and the merged folder by the adapter."""
        self._reference = equivalence.measure_adapter(base, adapter, self._probe)
        self.gates.at_least(
            "adapter_moves_logits", ADAPTER_WEIGHTS, self._reference.effect, self._limits.min_adapter_effect
        )
        found = equivalence.measure_merged(merged, self._probe)
        difference = equivalence.mean_difference(self._reference.logprobs, found)
        self.gates.at_most("top5_difference", MERGED_WEIGHTS, difference, self._limits.max_merged_difference)

    def judge_f16(self, path: Path) -> None:
        """Judge the F16 file by the adapter.

        Raises:
            EvaluateError: it cannot be opened, so that the other files could not be judged by it.
        """
        try:
            with GgufModel(path, threads=self._threads) as model:
                self._f16 = equivalence.measure_f16(model, self._probe)
        except BaseModelError as error:
            raise EvaluateError(f"Nothing can be verified without the F16 file: {error}") from error
        difference = equivalence.mean_difference(self._reference.logprobs, self._f16.compared)
        self.gates.at_most("top5_difference", path.name, difference, self._limits.max_f16_difference)
        self._judge_behaviour(path.name, self._f16.behaviour)

    def judge_adapter_file(self, base: Path, path: Path) -> None:
        """Judge the adapter file, put on the base's F16 file, by the merged F16 file."""
        self.gates.rests_on[path.name] = F16_FILE

        def measure() -> None:
            with GgufModel(base / BASE_FILE, path, threads=self._threads) as model:
                found = equivalence.measure_rows(model, self._probe.compared)
            difference = equivalence.mean_difference(self._f16.compared, found)
            self.gates.at_most("top5_difference", path.name, difference, self._limits.max_adapter_difference)

        self._unless_unreadable(path, measure)

    def judge_quantized(self, path: Path) -> None:
        """Judge a quantized file by the F16 file of the same model."""
        limits, eight_bit = self._limits, path.name == EIGHT_BIT_FILE
        self.gates.rests_on[path.name] = F16_FILE

        def measure() -> None:
            with GgufModel(path, threads=self._threads) as model:
                answers = equivalence.measure_rows(model, self._f16.rows)
                behaviour = equivalence.measure_behaviour(model, self._probe)
            divergence = equivalence.divergence(self._f16.answers, answers)
            limit = limits.max_divergence_8bit if eight_bit else limits.max_divergence_4bit
            self.gates.at_most("kl_divergence", path.name, divergence, limit)
            share = equivalence.same_top(self._f16.answers, answers)
            limit = limits.min_same_top_8bit if eight_bit else limits.min_same_top_4bit
            self.gates.at_least("same_top_token", path.name, share, limit)
            self._judge_behaviour(path.name, behaviour)

        self._unless_unreadable(path, measure)

    def _judge_behaviour(self, subject: str, behaviour: equivalence.Behaviour) -> None:
        self.gates.at_least("equal_token_ids", subject, behaviour.equal_tokens, 1)
        self.gates.at_least("same_chat_template", subject, behaviour.same_template, 1)
        self.gates.at_most("doubled_bos", subject, behaviour.doubled_bos, 0)
        self.gates.at_least("ends_by_itself", subject, behaviour.ended, self._limits.min_ended)
        if behaviour.first_unequal is not None:
            logger.warning(
                "%s: token ids differ from the tokenizer's in %r", subject, behaviour.first_unequal
            )

    def _unless_unreadable(self, path: Path, measure: Callable[[], None]) -> None:
        """Measure a file; one that llama.cpp cannot open fails a gate of its own instead."""
        try:
            measure()
        except BaseModelError as error:
            logger.warning("%s", error)
            self.gates.at_least("opens", path.name, 0, 1)
