"""What a run would do and cost: states of the stages, time, memory and disk, from recipe and short probes."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory import hardware
from factory.lora import attach, fit, memory
from factory.lora.config import TrainConfig, choose_rank
from factory.lora.setup import outline, setup_of
from factory.pipeline import Run
from factory.plan.duration import Speeds, estimate_seconds, probe_flops
from factory.plan.probe import probe_answers, probe_training
from factory.plan.workload import Rows, find_workload
from factory.recipe import Recipe
from factory.stages.train import adapter_folder

GIB = 2**30
PROBED_PARAMETERS = 500_000_000  # a training step of a larger base takes minutes on a CPU
LABEL_SHARE = 0.25  # of a row's tokens, as in the sample company
QUESTION_TOKENS = 64  # a long question in the chat template; above it passages, where there is retrieval
TIGHT = 0.8  # share of the available memory above which a run is called tight


@dataclass(frozen=True)
class Demand:
    """The memory that one stage needs, in bytes: predicted part by part, and what a tried step took, if one was."""

    parts: memory.Parts
    measured: int | None = None

    @property
    def needed(self) -> float:
        """The measured step with what a long run adds to it, else the prediction."""
        return self.parts.total if self.measured is None else self.measured + self.parts.long_run


def make_plan(run: Run) -> dict[str, Any]:
    """Return stage states, estimates and a verdict (`fits`, `tight`, `does not fit`)."""
    work, states = find_workload(run), run.states()
    shaped = choose_rank(run.recipe.train, work.rows.facts)
    recipe = run.recipe.model_copy(update={"train": shaped})
    setup, available = _setup(recipe.train, run.base.folder)
    shape = setup.shape
    speeds = Speeds(probe_flops(recipe.train), probe_flops())
    seconds = estimate_seconds(recipe, setup, work, speeds)
    to_do = {name: round(seconds[name], 1) for name, state in states.items() if state == "to do"}
    loads = _loads(recipe.train, work.rows)
    choices = [
        fit.plan_training(setup, load, recipe.train.batch_size, available, recipe.train.micro_batch)
        for load in loads
    ]
    choice = choices[0]
    largest = max(zip(choices, loads, strict=True), key=lambda pair: pair[0].parts.total)
    demands = _probed(recipe, setup, *largest, set(to_do), available)
    needed = max(demand.needed for demand in demands.values())
    disk, free = 6 * shape.parameters * 2 + (64 << 20), hardware.free_disk_bytes(run.out)
    return {
        "recipe": recipe.name,
        "base": run.base.name,
        "machine": hardware.describe_machine(),
        "stages": [
            {"name": name, "status": state, "seconds": to_do.get(name, 0.0)} for name, state in states.items()
        ],
        "minutes": round(sum(to_do.values()) / 60, 1),
        "training": {
            "rank": recipe.train.rank,
            "epochs": work.rows.epochs(recipe.train),
            "rows_an_epoch": work.rows.an_epoch,
            "tokens_a_row": round(work.rows.mean, 1),
            "longest_row": work.rows.longest,
            "micro_batch": choice.micro_batch,
            "accumulation": -(-recipe.train.batch_size // choice.micro_batch),
            "minutes": round(seconds["train"] / 60, 1),
        },
        "memory_gib": {
            "needed": round(needed / GIB, 2),
            "available": round(available / GIB, 2),
            **{name: _in_gib(demand) for name, demand in demands.items()},
        },
        "disk_gib": {"predicted": round(disk / GIB, 2), "free": round(free / GIB, 2)},
        "probe_gflops": round(speeds.training / 1e9, 1),
        "verdict": _verdict(needed, available, disk, free),
    }


def _setup(train: TrainConfig, base: Path) -> tuple[memory.Setup, int]:
    """Return what training means on this machine, and the bytes that its device has to spare."""
    device = attach.pick_device() if train.device == "auto" else train.device
    model = outline(base, train, adapter_folder(train.continue_from) if train.continue_from else None)
    setup = setup_of(model, train, device, attach.pick_dtype(train.precision, device))
    return setup, fit.available_bytes(device)


def _loads(train: TrainConfig, rows: Rows) -> list[memory.Load]:
    """Return what is trained on: rows and, where there are preferences, pairs of rows as long as they may be."""
    load = memory.Load(rows.longest, round(LABEL_SHARE * rows.longest), round(rows.total), below=rows.below)
    if train.preferences is None:
        return [load]
    return [load, memory.Load(train.max_tokens, round(LABEL_SHARE * train.max_tokens), together=2)]


def _probed(
    recipe: Recipe,
    setup: memory.Setup,
    choice: fit.Choice,
    load: memory.Load,
    to_do: set[str],
    available: int,
) -> dict[str, Demand]:
    """Return what training and evaluation need; what is to do, small and predicted to fit is tried."""
    evaluate = recipe.evaluate
    prompt = QUESTION_TOKENS + evaluate.rag * evaluate.passages * recipe.chunk.max_tokens
    answers = memory.answer_step(setup, prompt, evaluate.max_answer_tokens)
    small = setup.shape.parameters <= PROBED_PARAMETERS
    trained = asked = None
    if small and choice.fits and "train" in to_do:
        rows = choice.micro_batch * load.together
        tokens, shared = memory.largest_rows(setup, load, rows)
        trained = probe_training(recipe, tokens, rows, shared)
    if small and answers.total <= available and "evaluate" in to_do:
        asked = probe_answers(recipe, prompt)
    return {"training": Demand(choice.parts, trained), "evaluation": Demand(answers, asked)}


def _in_gib(demand: Demand) -> dict[str, Any]:
    measured = demand.measured
    return {
        "predicted": round(demand.parts.total / GIB, 2),
        "probed": None if measured is None else round(measured / GIB, 2),
        "needed": round(demand.needed / GIB, 2),
        "parts": {name: round(value / GIB, 3) for name, value in asdict(demand.parts).items()},
    }


def _verdict(needed: float, available: float, disk: float, free: float) -> str:
    if needed > available or disk > free:
        return "does not fit"
    return "tight" if needed > TIGHT * available or disk > TIGHT * free else "fits"
