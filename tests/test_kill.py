"""kill -9 in the middle of every stage, the same command again, and nothing may differ from an undisturbed run.

The runs are real ones, on a tiny base, in processes of their own. All but the last are the command line in a driver
that kills its whole process group at a chosen place: between two files read, two optimizer steps or two files
judged, or where a file, of which half is written, would get its name.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from factory import hardware, pipeline
from tests.same import FOLDERS, assert_same_run, list_tree
from tests.tiny import make_tiny_base

pytestmark = pytest.mark.timeout(1800)  # the first test waits for the run that nothing disturbs
ROOT = Path(__file__).parent.parent
DRIVER = """
import os, signal, sys
from importlib import import_module
from pathlib import Path

from factory import cli


def die_in(place, file, number, work):
    module, _, path = place.partition(":")
    owner = import_module(module)
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), 0

    def deadly(*arguments, **options):
        nonlocal calls
        calls += work.is_dir() and (not file or work / file == Path(arguments[1]))
        if calls == number:
            if file:
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os.killpg(0, signal.SIGKILL)
        return real(*arguments, **options)

    setattr(owner, name, deadly)


place, file, number, work = sys.argv.pop(1).split("|")
die_in(place, file, int(number), Path(work))
cli.main()
"""
RECIPE = """
name: tiny
base: tiny.gguf
ingest: {source: documents}
curate: {test_questions: 8, valid_questions: 4, replay: 0}
train: {epochs: 3, wordings: 2, rank: 4, first_layer: 1, recall_every: 1, max_tokens: 400, batch_size: 32}
quantize: {types: [Q8_0, Q4_0], imatrix_tokens: 256}
verify: {max_merged_difference: 9, max_f16_difference: 9, max_adapter_difference: 9, min_adapter_effect: 1e-9,
  max_divergence_8bit: 9, max_divergence_4bit: 9, min_same_top_8bit: 0, min_same_top_4bit: 0, min_ended: 0,
  prompts: 2, compared_tokens: 64, scored_tokens: 64, text_lines: 10, answer_tokens: 8}
evaluate: {general_questions: 0, rag_questions: 4, max_answer_tokens: 4}
"""
NAMING = "pathlib:Path.replace"


@dataclass(frozen=True)
class Place:
    """Where a stage dies: in the `number`-th call of a function, or as a half-written `file` gets its name."""

    stage: str
    function: str = NAMING
    number: int = 1
    file: str = ""

    @property
    def folder(self) -> str:
        return FOLDERS[pipeline.STAGES.index(self.stage)]


# A run dies in every other stage, and another one in those between, so that both take half as many processes.
SERIES = {
    "odd": (
        Place("ingest", "factory.readers.journal:Journal.add", 3),
        Place("synthesize", file="examples.jsonl"),
        Place("train", "factory.progress:Progress.training_step", 5),
        Place("merge", file="config.json"),
        Place("verify", "factory.weights.file_judge:FileJudge.judge_quantized", 2),
        Place("export", file="MODEL_CARD.md"),
    ),
    "even": (
        Place("chunk", file="chunks.jsonl"),
        Place("curate", file="test.jsonl"),
        Place("train", file="checkpoints/best.pt", number=2),
        Place("quantize", file="model-Q4_0.gguf"),
        Place("evaluate", file="replies-closed_book-model-Q4_0.gguf.jsonl"),
        Place("export", file="record.json"),
    ),
}


class Workplace:
    """A folder with documents, a recipe, a tiny base, and a home and temporary folder that are watched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("documents", "home", "temporary"):
            (folder / name).mkdir()
        shutil.copyfile(make_tiny_base(folder / "made") / "base-F16.gguf", folder / "tiny.gguf")
        (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
        self._environment = os.environ | {
            "ADAPTER_FACTORY_CACHE": str(folder / "cache"),
            "HOME": str(folder / "home"),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "temporary"),
        }
        for number in range(4):
            (folder / "documents" / f"pumps-{number}.md").write_text(_document(number), encoding="utf-8")
        (folder / "documents" / "torn.pdf").write_bytes(b"%PDF-1.7 torn")

    def run(self, out: Path, *driver: str) -> subprocess.CompletedProcess[str]:
        """Run the recipe in a session of its own, with the command line or with a driver of it."""
        return subprocess.run(
            [sys.executable, *(driver or ("-m", "factory.cli")), "run", "tiny.yaml", "--out", str(out)],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )

    def die_and_run_again(self, places: tuple[Place, ...], name: str) -> Path:
        """Die at one place after another, each time running again, at last to the end; return the output folder."""
        out, finished = self.folder / "build" / name, 0
        for place in places:
            work = out / ".partial" / place.folder
            killed = self.run(out, "-c", DRIVER, f"{place.function}|{place.file}|{place.number}|{work}")
            assert killed.returncode == -signal.SIGKILL, f"{place}: {killed.stderr}"
            assert work.is_dir(), f"{place}: it died before the stage began"
            assert not (out / place.folder).exists(), f"{place}: it died after the stage had ended"
            assert killed.stderr.count("up to date") == finished, f"{place}: {killed.stderr}"
            finished = FOLDERS.index(place.folder)
        again = self.run(out)
        assert again.returncode == 0, again.stderr
        assert again.stderr.count("up to date") == finished, again.stderr
        return out


def _document(number: int) -> str:
    rows = "".join(
        f"| Pump {number}{row} | {17 * number + 5 * row + 3} bar | {31 * number + 7 * row + 100} kg |\n"
        for row in range(5)
    )
    head = f"# Pumps of series {number}\n\n| Pump | Pressure | Weight |\n| --- | --- | --- |\n"
    return f"{head}{rows}\nThe code of gate {number} is {4711 + number}.\n"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("kill"))


@pytest.fixture(scope="module")
def runners() -> Iterator[ThreadPoolExecutor]:
    """One runner a core, so that what is this small does not wait for threads."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    free = iter(cores)

    def stay_on_one_core() -> None:
        if cores:
            os.sched_setaffinity(0, {next(free)})

    executor = ThreadPoolExecutor(hardware.num_cores(), initializer=stay_on_one_core)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def reference(workplace: Workplace, runners: ThreadPoolExecutor) -> Path:
    """The output folder of a run that nothing disturbed."""
    out = workplace.folder / "build" / "undisturbed"
    done = runners.submit(workplace.run, out).result()
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def second_runs(
    workplace: Workplace, runners: ThreadPoolExecutor, reference: Path
) -> dict[str, Future[Path]]:
    """The output folders of runs that were killed, and run again, at every place of a series."""
    return {name: runners.submit(workplace.die_and_run_again, SERIES[name], name) for name in SERIES}


def test_every_stage_is_killed():
    assert {place.stage for places in SERIES.values() for place in places} == set(pipeline.STAGES)


@pytest.mark.parametrize("name", SERIES)
def test_a_run_killed_there_and_run_again_gives_what_an_undisturbed_one_gives(second_runs, reference, name):
    assert_same_run(second_runs[name].result(), reference)


def test_nothing_is_left_outside_the_output_folder(workplace, second_runs):
    for second_run in second_runs.values():
        second_run.result()
    deadline = time.monotonic() + 20  # readers notice a moment later that their run is gone
    while list((workplace.folder / "temporary").glob("factory-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list((workplace.folder / "temporary").rglob("factory-*"))
    assert {Path(path).parts[1:2] for path in list_tree(workplace.folder / "home")} <= {(), ("matplotlib",)}
    assert len(list((workplace.folder / "cache" / "bases").iterdir())) == 1
