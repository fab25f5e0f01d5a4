"""The main job on the embedded base, small: documents to a verified bundle, killed on the way, and run again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "people/leave-policy-v5.docx",
    "warehouse/goods-in.md",
    "products/ks3-data-sheet.html",
    "broken/encrypted-payroll.pdf",
)
RECIPE = """
name: small
ingest: {source: documents}
curate: {test_questions: 20, valid_questions: 10}
train: {first_layer: 26, epochs: 2, wordings: 1, rank: 8, checkpoint_seconds: 5}
quantize: {imatrix_tokens: 1024}
evaluate: {general: false, rag_questions: 5}
"""


def factory(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "factory.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def kill_during(stage_folder: str, cwd: Path) -> bool:
    """Start the run, kill it -9 as soon as a stage has begun to write, and tell whether that happened."""
    command = [sys.executable, "-m", "factory.cli", "run", "small.yaml"]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    partial = cwd / "build" / "small" / ".partial" / stage_folder
    while process.poll() is None and not partial.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for name in DOCUMENTS:
        target = folder / "documents" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "data" / "quickstart" / name, target)
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
class TestWholeRun:
    def test_a_run_killed_in_every_stage_finishes_like_an_undisturbed_one(self, workplace: Path) -> None:
        killed = [
            folder
            for folder in ("corpus", "dataset", "adapter", "gguf", "checks", "evaluation")
            if kill_during(folder, workplace)
        ]
        assert len(killed) >= 4, f"only {killed} were running long enough to be killed"
        done = factory("run", "small.yaml", cwd=workplace)
        assert done.returncode in (0, 3), done.stderr
        clean = factory("run", "small.yaml", "--out", "build/clean", cwd=workplace)
        assert clean.returncode == done.returncode, clean.stderr
        for name in (
            "corpus/documents.jsonl",
            "dataset/train.jsonl",
            "dataset/test.jsonl",
            "adapter/adapter_config.json",
        ):
            left, right = (workplace / "build" / run / name for run in ("small", "clean"))
            assert left.read_bytes() == right.read_bytes(), f"{name} differs after kills"

    def test_the_report_says_what_happened(self, workplace: Path) -> None:
        report = json.loads((workplace / "build" / "small" / "report.json").read_text(encoding="utf-8"))
        assert {score["kind"] for score in report["scores"]} >= {"base", "adapter", "gguf"}
        assert [row["reason"] for row in report["quarantined"]] == ["encrypted"]
        assert report["verdict"]

    def test_running_again_does_nothing(self, workplace: Path) -> None:
        started = time.perf_counter()
        again = factory("run", "small.yaml", cwd=workplace)
        assert again.stderr.count("up to date") == 10, again.stderr
        assert time.perf_counter() - started < 60

    def test_the_bundle_answers_and_verifies(self, workplace: Path) -> None:
        bundle = workplace / "build" / "small" / "bundle"
        checked = subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"],
            cwd=bundle,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
        assert factory("verify", str(bundle), cwd=workplace).returncode == 0
        answer = factory("ask", str(bundle), "How many days of leave are there?", "--json", cwd=workplace)
        assert json.loads(answer.stdout)["answer"]
