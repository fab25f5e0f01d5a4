"""How a run ends: what is said last, and what the report keeps of a failure."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from factory import store
from factory.errors import GateError, TrainError
from factory.pipeline import Outcome, StageResult
from factory.summary import closing_lines, finish
from tests.scored import make_score

SCORE = make_score(question_set="unseen_phrasing", n=150, accuracy=0.5467, low=0.46651, high=0.6249)
REPORT = {"verdict": "It knows.", "scores": [SCORE.model_dump()]}
RUN_OUT = Path("build/tolvane")


@pytest.fixture
def end(tmp_path):
    """Return a function that ends a run and returns what was said and what its report holds."""

    def run(error, bundle=False):
        if bundle:
            (tmp_path / "bundle").mkdir()
        said = []
        stages = (StageResult("ingest", "failed" if error else "done", 1.5, 2_000_000),)
        made = SimpleNamespace(out=tmp_path, recipe=SimpleNamespace(name="tolvane"))
        finish(made, Outcome(stages, error), said.append)
        return said, store.read_json(tmp_path / "report.json")

    return run


def test_scores_stand_in_columns_with_interval_and_count():
    lines = closing_lines(RUN_OUT, REPORT, finished=False)
    assert lines[:3] == ["", "It knows.", ""]
    assert lines[3] == (
        "  adapter                      closed_book  unseen_phrasing     54.7%  [46.7%, 62.5%]  n=150"
    )
    assert lines[4:] == ["", "report  build/tolvane/report.html"]


def test_columns_hold_the_widest_share_and_the_narrowest():
    changes = [{"accuracy": share, "low": share, "high": share, "n": 1} for share in (0.0, 1.0)]
    rows = [SCORE.model_copy(update=change).model_dump() for change in changes]
    lines = closing_lines(RUN_OUT, REPORT | {"scores": rows}, finished=False)[3:5]
    assert [line.index("%") for line in lines] == [lines[0].index("%")] * 2
    assert lines[1].endswith("100.0%  [100.0%, 100.0%]  n=1")


def test_a_finished_run_names_its_bundle_in_every_next_command():
    report, bundle, _, _, *commands = closing_lines(RUN_OUT, REPORT, finished=True)[5:]
    assert (report, bundle) == ("report  build/tolvane/report.html", "bundle  build/tolvane/bundle")
    assert [command.split()[:3] for command in commands] == [
        ["factory", verb, "build/tolvane/bundle"] for verb in ("ask", "serve", "push-ollama")
    ]


def test_an_error_is_the_reports_failure_and_nothing_comes_next(end):
    said, report = end(TrainError("The loss is not finite: lower train.learning_rate"), bundle=True)
    assert report["failure"] == "The loss is not finite: lower train.learning_rate"
    assert report["stages"] == [
        {"name": "ingest", "status": "failed", "seconds": 1.5, "peak_memory_bytes": 2_000_000}
    ]
    assert said[1] == report["verdict"] == "The run did not finish. Nothing was measured."
    assert not any(line.startswith(("bundle", "next")) for line in said)


def test_gates_that_were_not_met_are_a_result_and_no_failure(end):
    said, report = end(GateError("1 quality gate(s) not met"))
    assert report["failure"] is None
    assert said[-1].startswith("report  ")


def test_a_run_without_a_bundle_names_none(end, tmp_path):
    said, report = end(None)
    assert report["recipe"] == "tolvane"
    assert said[-1] == f"report  {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").is_file()
