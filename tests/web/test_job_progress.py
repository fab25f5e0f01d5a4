"""How far a run is, from folders as the pipeline leaves them and a log as it writes it."""

import json
from pathlib import Path

import pytest

from factory import artifacts, progress, store
from factory.lora import documents
from factory.lora.curves import Curves
from factory.pipeline import STAGES, STEPS
from factory.readers.journal import Journal
from factory.web.job import Job, new_job
from factory.web.job_progress import error_line, read_progress

MARKED = {"key": "k"}


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path


def job_of(state: str, **values) -> Job:
    return new_job(Path("handbook"), "handbook", "quick", None).model_copy(update={"state": state, **values})


def finish(out: Path, *stages: str) -> None:
    """Leave what finished stages leave."""
    for step in STEPS:
        if step.stage in stages:
            record = artifacts.Record(
                kind=step.folder, key="k", content="c", config={}, inputs={}, code_version=1, counts={},
                packages={}, python="3", seconds=61.0, peak_memory_bytes=1,
            )  # fmt: skip
            (out / step.folder).mkdir()
            store.write_json(out / step.folder / "record.json", record.model_dump())


def begin(out: Path, stage: str) -> Path:
    """Leave what a stage that works leaves, and return its partial folder."""
    folder = next(step.folder for step in STEPS if step.stage == stage)
    work = out / ".partial" / folder
    work.mkdir(parents=True)
    store.write_json(out / ".partial" / f"{folder}.json", MARKED)
    return work


def statuses(out: Path, job: Job) -> dict[str, str]:
    return {row.stage: row.status for row in read_progress(job, out, "").stages if row.status != "waiting"}


def test_what_stands_before_the_stage_that_works_is_done(out):
    finish(out, "ingest", "chunk")
    begin(out, "synthesize")
    assert statuses(out, job_of("running")) == {"ingest": "done", "chunk": "done", "synthesize": "working"}
    now = read_progress(job_of("running"), out, "")
    assert (now.current, now.stages[1].seconds, now.stages[2].seconds) == ("synthesize", 61.0, None)


@pytest.mark.parametrize(
    ("state", "shown"), [("failed", "failed"), ("cancelled", "stopped"), ("queued", None)]
)
def test_where_a_run_ended_is_shown(out, state, shown):
    finish(out, "ingest")
    begin(out, "chunk")
    assert statuses(out, job_of(state)) == {"ingest": "done"} | ({"chunk": shown} if shown else {})


def test_a_stage_made_anew_hides_what_an_earlier_run_left_after_it(out):
    finish(out, *STAGES)
    begin(out, "train")
    assert list(statuses(out, job_of("running")).items())[-1] == ("train", "working")


def test_a_file_that_fails_a_gate_still_leaves_a_finished_run_and_its_bundle(out):
    finish(out, *STAGES)
    (out / "bundle/manifest.json").write_text("{}")
    store.write_json(out / "report.json", {"verdict": "No: 1 of 9 quality gates failed."})
    for job in (job_of("done"), job_of("failed", exit_code=3)):
        now = read_progress(job, out, "")
        assert {row.status for row in now.stages} == {"done"}
        assert (now.current, now.bundle, now.verdict[:3]) == (None, out / "bundle", "No:")
    for job in (job_of("failed", exit_code=1), job_of("running"), job_of("queued")):
        assert read_progress(job, out, "").bundle is None
        assert read_progress(job, out, "").verdict == ""


def test_a_run_whose_gates_left_no_file_to_ship_has_failed_and_an_older_bundle_is_not_its_own(out):
    finish(out, *STAGES[:-1])
    begin(out, "export")
    job = job_of("failed", exit_code=3)
    assert statuses(out, job)["export"] == "failed"
    (out / "bundle").mkdir()
    (out / "bundle/manifest.json").write_text("{}")
    assert statuses(out, job)["export"] == "failed"
    assert read_progress(job, out, "").bundle is None


def test_documents_and_refusals_are_known_while_files_are_being_read(out):
    row = {"path": "a.md", "text": "twelve chars"}
    refusal = {"path": "b.pdf", "reason": "corrupt", "detail": "It is cut off: copy it again."}
    work = begin(out, "ingest")
    with Journal(work, None, "r") as journal:
        journal.add("a.md", "0" * 64, [row], [])
        first = read_progress(job_of("running"), out, "")
        journal.add("b.pdf", "1" * 64, [], [refusal])
        second = read_progress(job_of("running"), out, "")
    assert [(file.path, file.characters) for file in first.read] == [("a.md", 12)]
    assert first.quarantined == ()
    assert [(file.path, file.reason) for file in second.quarantined] == [("b.pdf", "corrupt")]


def test_documents_and_refusals_of_a_finished_and_of_a_fruitless_ingest(out):
    for folder, state in ((begin(out, "ingest"), "failed"), (out / "corpus", "running")):
        if state == "running":
            (out / ".partial/corpus.json").unlink()
        with Journal(folder, None, "r") as journal:
            journal.refuse("huge.pdf", "too_large", "It has 90 MiB: split it.")
            journal.add("a.zip", "1" * 64, [{"path": "a.zip!/b.md", "text": "é", "elements": []}], [])
            journal.finish()
        now = read_progress(job_of(state), out, "")
        assert [(file.path, file.characters) for file in now.read] == [("a.zip!/b.md", 1)]
        assert [file.reason for file in now.quarantined] == ["too_large"]


def test_the_loss_while_training_comes_from_the_lines_that_training_says(out, monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    begin(out, "train")
    with progress.Progress("train") as bar:
        for step, loss in ((1, 7.6), (120, 1.25)):
            speed = {"tokens_per_second": 900.0, "mfu": 0.3, "memory_bytes": 1e9, "seconds": 60.0}
            bar.training_step({"step": step, "num_steps": 350, "loss": loss, **speed})
    (out / "log.txt").write_text(capsys.readouterr().err)
    now = read_progress(job_of("running"), out, "")
    assert ([(point.step, point.loss) for point in now.loss], now.num_steps) == ([(1, 7.6), (120, 1.25)], 350)


def test_the_loss_of_the_curve_counts_more_than_the_log(out):
    (out / "log.txt").write_text("  train: 1/4 loss 9.000  1 tokens/s\n")
    finish(out, "train")
    rows = [{"step": step, "loss": 5.0 - step, "epoch": 1} for step in (1, 2)]
    (out / "adapter/loss.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo'
    )
    assert [point.loss for point in read_progress(job_of("running"), out, "").loss] == [4.0, 3.0]
    begin(out, "train")
    assert [point.loss for point in read_progress(job_of("running"), out, "").loss] == [9.0]


def test_preferences_of_another_unit_are_no_part_of_the_curve(out):
    finish(out, "train")
    rows = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 0.7, "stage": "preferences"}]
    (out / "adapter/loss.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [point.loss for point in read_progress(job_of("running"), out, "").loss] == [4.0]


def test_the_loss_is_as_live_as_the_curve_that_training_writes(out):
    (out / "log.txt").write_text("  train: 1/90 loss 9.000  1 tokens/s\n")
    curve = begin(out, "train") / "loss.jsonl"

    def shown():
        now = read_progress(job_of("running"), out, "")
        return [(point.step, point.loss) for point in now.loss], now.num_steps

    with curve.open("a") as file:
        for step in (1, 2, 3):
            file.write(json.dumps({"step": step, "loss": 5.0 - step, "seconds": 0.1}) + "\n")
            file.flush()
            assert shown() == ([(before, 5.0 - before) for before in range(1, step + 1)], 90)
        file.write('{"step": 4, "lo')
        file.flush()
        assert shown()[0][-1] == (3, 2.0)
    curve.write_text("".join(json.dumps({"step": step, "loss": step}) + "\n" for step in (1, 2, 3, 2, 3)))
    assert shown()[0] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_the_loss_while_training_is_the_curve_as_far_as_it_is_written(out):
    work = begin(out, "train")
    (out / "log.txt").write_text("  train: 1/7 loss 9.000  1 tokens/s\n")  # of an attempt with fewer epochs
    with Curves(work) as curves:
        for step in (1, 2):
            curves.add({"step": step, "loss": 4.5 - step / 2, "num_steps": 9})
    with (work / "loss.jsonl").open("a") as file:
        file.write('{"step": 3,')
    now = read_progress(job_of("running"), out, "")
    assert ([point.loss for point in now.loss], now.num_steps) == ([4.0, 3.5], 9)


def test_documents_that_are_learned_least_are_those_of_the_training_that_works(out):
    def write(folder, name):
        lines = [{"document": f"{name}-{number}.md", "rows": 2, "loss": 9.0 - number} for number in range(12)]
        (folder / documents.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert read_progress(job_of("running"), out, "").least_learned == ()
    finish(out, "train")
    write(out / "adapter", "old")
    found = read_progress(job_of("done"), out, "").least_learned
    assert [(row.document, row.loss) for row in found[:2]] == [("old-0.md", 9.0), ("old-1.md", 8.0)]
    assert len(found) == 10
    work = begin(out, "train")
    assert read_progress(job_of("running"), out, "").least_learned == ()
    write(work, "new")
    assert read_progress(job_of("running"), out, "").least_learned[0].document == "new-0.md"


def test_the_error_is_that_of_the_last_attempt(out):
    log = out / "log.txt"
    assert error_line(out) is None
    log.write_text("$ factory run\nerror: first\nerror: second\n$ factory run\n  chunk: 1/2\n")
    assert error_line(out) is None
    log.write_text(log.read_text() + "error: third\n\n")
    assert error_line(out) == "third"


def test_a_log_is_shown_without_what_a_terminal_would_obey(out):
    (out / "log.txt").write_bytes(
        b"\x1b[31mred\x1b[0m\x07 \xff\r\n" + b"".join(b"line %d\n" % i for i in range(40))
    )
    assert read_progress(job_of("running"), out, "").log[-1] == "line 39"
    assert len(read_progress(job_of("running"), out, "").log) == 14
    (out / "log.txt").write_bytes(b"\x1b[31mred\x1b[0m\x07 \xff\r\n")
    assert read_progress(job_of("running"), out, "").log == ("red \ufffd",)


def test_damaged_and_missing_files_count_as_not_there_yet(out):
    finish(out, "ingest")
    (out / "corpus/record.json").write_text("{")
    (out / "report.json").write_text("[]")
    now = read_progress(job_of("done"), out, "factory run x")
    assert (now.verdict, now.bundle, now.log, now.loss, now.command) == ("", None, (), (), "factory run x")
