"""The main job on the embedded base, small: documents to a verified bundle, killed on the way, and run again.

`test_kill.py` kills every stage at chosen places on a tiny base; here a real one dies wherever it happens to be.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.same import assert_same_run

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
train: {first_layer: 26, epochs: 2, wordings: 1, rank: 8, whiten: false, retain: 0, checkpoint_seconds: 5}
quantize: {imatrix_tokens: 1024}
evaluate: {general_questions: 0, rag_questions: 5}
"""
# Whitened steps learn more slowly how answers end: after so few, a tenth of them or more go on and fail a gate.
# What shows that a stage has done a part of its work, and not all.
UNDER_WAY = {
    "corpus": "corpus/partial.jsonl",
    "adapter": "adapter/checkpoints/step-*",
    "gguf": "gguf/model-F16.gguf",
    "checks": "checks",
    "evaluation": "evaluation/replies-*",
}


def factory(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "factory.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def kill_during(stage_folder: str, cwd: Path) -> bool:
    """Start the run, kill it -9 as soon as a stage has done a part of its work, and tell whether that happened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "factory.cli", "run", "small.yaml"],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    out = cwd / "build" / "small"
    while process.poll() is None and not any(out.glob(f".partial/{UNDER_WAY[stage_folder]}")):
        time.sleep(0.02)
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return running and not (out / stage_folder).exists()


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
    def test_a_run_killed_in_its_long_stages_finishes_like_an_undisturbed_one(self, workplace: Path) -> None:
        killed = [folder for folder in UNDER_WAY if kill_during(folder, workplace)]
        assert killed == list(UNDER_WAY)
        done = factory("run", "small.yaml", cwd=workplace)
        assert done.returncode in (0, 3), done.stderr
        clean = factory("run", "small.yaml", "--out", "build/clean", cwd=workplace)
        assert clean.returncode == done.returncode, clean.stderr
        assert_same_run(workplace / "build" / "small", workplace / "build" / "clean")

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
