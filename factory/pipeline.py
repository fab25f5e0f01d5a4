"""The pipeline: which stage reads which folders, what is up to date, what runs. Computes nothing itself."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from factory import artifacts, hardware, store
from factory.errors import ArtifactError, FactoryError, GateError, UsageError
from factory.quiet import explain
from factory.recipe import Recipe
from factory.stages import chunk, curate, evaluate, export, ingest, merge, quantize, synthesize, train, verify


@dataclass(frozen=True)
class Step:
    """One stage of the pipeline.

    `folder` is what it writes, `inputs` the folders it reads, `base` whether it needs the base model, `uses`
    the recipe-wide values (seed, system, name) that shape its result, `together` whether all processes of a launcher
    run it.
    """

    stage: str
    folder: str
    run: Callable[..., dict[str, Any]]
    code_version: int
    inputs: tuple[str, ...] = ()
    base: bool = False
    uses: tuple[str, ...] = ()
    together: bool = False


STEPS = (
    Step("ingest", "corpus", ingest.ingest, ingest.CODE_VERSION),
    Step("chunk", "chunks", chunk.chunk, chunk.CODE_VERSION, ("corpus",), base=True),
    Step(
        "synthesize",
        "examples",
        synthesize.synthesize,
        synthesize.CODE_VERSION,
        ("chunks",),
        uses=("system",),
    ),
    Step(
        "curate",
        "dataset",
        curate.curate,
        curate.CODE_VERSION,
        ("examples", "chunks"),
        base=True,
        uses=("seed", "system"),
    ),
    Step(
        "train",
        "adapter",
        train.train,
        train.CODE_VERSION,
        ("dataset",),
        base=True,
        uses=("base_name", "seed", "system"),
        together=True,
    ),
    Step("merge", "merged", merge.merge, merge.CODE_VERSION, ("adapter",), base=True),
    Step(
        "quantize",
        "gguf",
        quantize.quantize,
        quantize.CODE_VERSION,
        ("adapter", "merged", "dataset"),
        base=True,
    ),
    Step(
        "verify",
        "checks",
        verify.verify,
        verify.CODE_VERSION,
        ("adapter", "merged", "gguf", "dataset"),
        base=True,
        uses=("system",),
    ),
    Step(
        "evaluate",
        "evaluation",
        evaluate.evaluate,
        evaluate.CODE_VERSION,
        ("dataset", "chunks", "adapter", "gguf"),
        base=True,
        uses=("base_name", "system"),
    ),
    Step(
        "export",
        "bundle",
        export.export,
        export.CODE_VERSION,
        ("adapter", "merged", "gguf", "checks", "evaluation", "dataset"),
        base=True,
        uses=("name", "system"),
    ),
)
STAGES = tuple(step.stage for step in STEPS)


@dataclass(frozen=True)
class StageResult:
    """What became of one stage: `done`, `up to date`, `failed` or `not run`."""

    name: str
    status: str
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What became of a run; `error` is why it stopped, if it did."""

    stages: tuple[StageResult, ...]
    error: FactoryError | None = None


class Run:
    """A recipe in an output folder."""

    def __init__(self, recipe: Recipe, out: Path, say: Callable[[str], None]) -> None:
        """Keep the recipe; the base is opened when the first stage needs it."""
        self.recipe, self.out, self._say = recipe, out, say
        self._base: Any = None

    def status(self, step: Step) -> str:
        """Return a step's state, `up to date` or `to do`; a missing input makes it `to do`."""
        try:
            key = artifacts.key_of(step.folder, step.code_version, self._config(step), self._inputs(step))
        except ArtifactError:
            return "to do"
        return "up to date" if artifacts.is_current(self.out / step.folder, key) else "to do"

    def states(self) -> dict[str, str]:
        """Return every stage's state; one that reads what is to be made anew is `to do`, too."""
        anew: set[str] = set()
        states = {}
        for step in STEPS:
            states[step.stage] = "to do" if anew.intersection(step.inputs) else self.status(step)
            if states[step.stage] == "to do":
                anew.add(step.folder)
        return states

    def execute(self, only: str | None = None) -> Outcome:
        """Run all stages that are not up to date, or just one; the first error, of any kind, ends the run.

        Finished stages keep their folders, so that the next run goes on from there. Of several processes that a
        launcher started, the main one does so; the others take part in training and return an outcome without stages.

        Raises:
            UsageError: another process is writing into the same folder.
        """
        if _launched():
            from factory.lora import distributed

            distributed.join(self.recipe.train.device)
            if not distributed.is_main():
                return self._assist()
        try:
            with store.locked(self.out):
                return self._execute_all(only)
        except BlockingIOError as error:
            raise UsageError(
                f"Another run is writing into {str(self.out)!r}: wait for it, or name another --out"
            ) from error

    def _assist(self) -> Outcome:
        """Take part in the stages that the main process calls for, until it calls for none."""
        from factory.lora import distributed

        while call := distributed.from_main():
            stage, settings, arguments = call
            next(step for step in STEPS if step.stage == stage).run(settings, **arguments)
        distributed.leave()
        return Outcome(())

    def _execute_all(self, only: str | None) -> Outcome:
        results = []
        error: FactoryError | None = None
        for step in STEPS:
            if error or (only and step.stage != only):
                results.append(StageResult(step.stage, "not run", 0.0, 0))
                continue
            try:
                results.append(self._execute(step))
                if step.together:
                    _dismiss()
            except Exception as failure:  # one that nobody foresaw must leave a report as well
                error = _explained(failure, step.stage)
                results.append(StageResult(step.stage, "failed", 0.0, 0))
        if error is None:  # else the launcher ends the others, who may wait in the middle of a stage
            _dismiss()
        if error is None and only in {None, "verify"}:
            error = self.failed_gates()
        return Outcome(tuple(results), error)

    def failed_gates(self) -> GateError | None:
        """Return the error for quality gates that the last verification did not pass."""
        from factory.bundle.manifest import describe_unmet, read_gates

        path = self.out / "checks" / "gates.json"
        unmet = describe_unmet(read_gates(path)) if path.exists() else ""
        if not unmet:
            return None
        return GateError(f"{unmet}. Files that failed, and files made from them, are not in the bundle")

    def _execute(self, step: Step) -> StageResult:
        folder, config, inputs = self.out / step.folder, self._config(step), self._inputs(step)
        if artifacts.is_current(folder, artifacts.key_of(step.folder, step.code_version, config, inputs)):
            record = artifacts.read_record(folder)
            self._say(f"{step.stage:<11} up to date")
            return StageResult(step.stage, "up to date", record.seconds, record.peak_memory_bytes)
        started = time.perf_counter()
        record = artifacts.build(
            folder,
            kind=step.folder,
            code_version=step.code_version,
            config=config,
            inputs=inputs,
            make=lambda work: self._run(step, work),
        )
        hardware.release_memory()
        self._say(f"{step.stage:<11} {time.perf_counter() - started:6.1f} s  {_brief(record.counts)}")
        return StageResult(step.stage, "done", record.seconds, record.peak_memory_bytes)

    def _run(self, step: Step, work: Path) -> dict[str, Any]:
        settings, arguments = self._settings(step), {"work": work, **self._arguments(step)}
        if step.together and _launched():
            from factory.lora import distributed

            distributed.from_main((step.stage, settings, arguments))
        return step.run(settings, **arguments)

    def _settings(self, step: Step) -> BaseModel:
        settings: BaseModel = getattr(self.recipe, step.stage)
        return settings

    def _config(self, step: Step) -> dict[str, Any]:
        values = self._settings(step).model_dump(mode="json")
        return values | {name: self._value(name) for name in step.uses}

    def _value(self, name: str) -> Any:
        return self.base.name if name == "base_name" else getattr(self.recipe, name)

    @property
    def base(self) -> Any:
        """The base model, prepared on first use."""
        if self._base is None:
            from factory.weights.base import open_base

            self._base = open_base(self.recipe.base)
        return self._base

    def _inputs(self, step: Step) -> dict[str, str]:
        found = {name: artifacts.read_record(self.out / name).content for name in step.inputs}
        if step.base:
            found["base"] = self.base.sha256
        if step.stage == "ingest":
            found["source"] = ingest.fingerprint(self.recipe.ingest)
        teacher = self.recipe.synthesize.teacher
        if step.stage == "synthesize" and teacher and teacher.gguf:
            found["teacher"] = _hash_input(teacher.gguf, "synthesize.teacher.gguf")
        if step.stage == "synthesize" and self.recipe.synthesize.feedback:
            found["feedback"] = _hash_input(self.recipe.synthesize.feedback, "synthesize.feedback")
        if step.stage == "train" and self.recipe.train.continue_from:
            found["continue_from"] = train.fingerprint(self.recipe.train.continue_from)
        if step.stage == "train" and self.recipe.train.preferences:
            found["preferences"] = _hash_input(self.recipe.train.preferences, "train.preferences")
        if step.stage == "evaluate" and self.recipe.evaluate.questions:
            found["questions"] = _hash_input(self.recipe.evaluate.questions, "evaluate.questions")
        return found

    def _arguments(self, step: Step) -> dict[str, Any]:
        arguments: dict[str, Any] = {name: self.out / name for name in step.inputs}
        arguments |= {name: self._value(name) for name in step.uses}
        if step.base:
            arguments["base"] = self.base.folder
        if step.stage == "ingest":
            previous = self.out / step.folder
            arguments["previous"] = previous if previous.exists() else None
            arguments["workers"] = hardware.num_cores()
        return arguments


def _launched() -> bool:
    """Tell whether a launcher started several processes; asked before torch is imported, which takes seconds."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _dismiss() -> None:
    """Let the processes go that are waiting for a stage to take part in; none is left to call for."""
    if _launched():
        from factory.lora import distributed

        distributed.from_main(None)
        distributed.leave()


def _explained(error: Exception, stage: str) -> FactoryError:
    """Return an error that was not raised on purpose as one of ours, with itself as the cause."""
    if isinstance(error, FactoryError):
        return error
    explained = FactoryError(explain(error, f"The {stage} stage"))
    explained.__cause__ = error
    return explained


def _hash_input(path: Path, key: str) -> str:
    if not path.is_file():
        raise UsageError(f"The file {str(path)!r} does not exist: check {key} in the recipe")
    return store.hash_file(path)


def _brief(counts: dict[str, Any]) -> str:
    plain = {name: value for name, value in counts.items() if isinstance(value, int | float | str)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in list(plain.items())[:6])
