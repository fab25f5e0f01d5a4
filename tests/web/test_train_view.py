"""What the Train tab shows: a curve that any browser draws, tables in words, and no markup of others."""

from html import escape
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.report.model import DocumentLoss, LossPoint, QuarantinedFile
from factory.rows import ReasonCode
from factory.web import train_view
from factory.web.job import new_job
from factory.web.job_progress import Progress, ReadFile, StageProgress
from factory.web.markup import paragraph
from factory.web.uploads import Upload

EVIL = "<img src=x onerror=alert(1)>.md"
LOSSES = st.lists(st.floats(0, 1e6), min_size=1, max_size=1200)


def make_progress(state="running", stages=("done", "working", "waiting"), **values) -> Progress:
    job = new_job(Path("handbook"), "handbook", "quick", None).model_copy(
        update={"state": state, **{key: values.pop(key) for key in ("error",) if key in values}}
    )
    rows = tuple(StageProgress(f"stage{i}", status) for i, status in enumerate(stages, 1))
    current = next((row.stage for row in rows if row.status not in {"done", "waiting"}), None)
    empty = {
        "loss": (),
        "num_steps": None,
        "log": (),
        "read": (),
        "quarantined": (),
        "verdict": "",
        "command": "",
    }
    return Progress(**({"job": job, "stages": rows, "current": current, "bundle": None} | empty | values))


@given(LOSSES, st.none() | st.integers(1, 5000))
def test_the_curve_is_whole_xml_inside_its_frame(losses, num_steps):
    points = [LossPoint(step=step, loss=loss) for step, loss in enumerate(losses, 1)]
    svg = ElementTree.fromstring(train_view.loss_svg(points, num_steps))
    line = [tuple(map(float, pair.split(","))) for pair in svg.find("polyline").get("points").split()]
    assert len(line) <= 400
    assert all(48 <= x <= 628 and 12 <= y <= 186 for x, y in line)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert float(svg.find("circle").get("cx")) == line[-1][0]
    assert min(y for _, y in line) == 12 or len(points) > 400 or not any(losses)


def test_the_curve_ends_where_training_stands_and_says_so_in_words():
    points = [LossPoint(step=1, loss=8.0), LossPoint(step=50, loss=2.0)]
    panel = train_view.loss_panel(points, 100)
    assert 'points="53.8,12.0 338.0,142.5"' in panel
    assert "<p>Loss 8.00 at step 1, 2.00 at step 50 of 100.</p>" in panel
    assert 'aria-label="Training loss from 8.00 to 2.00"' in panel
    assert "http" not in panel
    assert "Least learned" not in panel
    assert "once training has begun" in train_view.loss_panel([], None)


def test_the_documents_that_are_learned_least_stand_below_the_curve_and_are_escaped():
    rows = [DocumentLoss(document=EVIL, rows=12, loss=2.25), DocumentLoss(document="b.md", rows=3, loss=0.5)]
    panel = train_view.loss_panel([LossPoint(step=1, loss=8.0)], 100, rows)
    assert EVIL not in panel
    first = f"<td>{escape(EVIL)}</td><td>2.25</td><td>12</td>"
    assert panel.index(first) < panel.index("<td>b.md</td><td>0.50</td><td>3</td>")


def test_names_and_texts_of_others_are_shown_as_text():
    refused = [QuarantinedFile(path=EVIL, reason="corrupt", detail=EVIL)]
    shown = [
        train_view.document_tables([ReadFile(EVIL, 1)], refused),
        train_view.preview_tables([Upload(EVIL, 1)], refused),
        train_view.log_panel([EVIL]),
        paragraph(train_view.state_line(make_progress("failed", error=EVIL))),
    ]
    for html in shown:
        assert "<img" not in html
        assert "&lt;img" in html


def test_every_reason_has_words():
    assert set(train_view.REASONS) == set(get_args(ReasonCode))
    for reason, words in train_view.REASONS.items():
        table = train_view.preview_tables([], [QuarantinedFile(path="a", reason=reason, detail="Do that.")])
        assert f"<td>a</td><td>{words}</td><td>Do that.</td>" in table
        assert "_" not in words


def test_tables_have_heads_captions_and_an_end():
    table = train_view.document_tables([ReadFile(f"{i}.md", 1234) for i in range(203)], [])
    assert "<caption>Read: 203</caption>" in table
    assert '<th scope="col">Document</th>' in table
    assert table.count("<tr>") == 201
    assert "<p>and 3 more</p>" in table
    assert "Not read" not in table
    stages = train_view.stage_table(
        [StageProgress("train", "done", 125.4), StageProgress("merge", "working")]
    )
    assert "<td>train</td><td>done</td><td>2 min 5 s</td>" in stages
    assert "<td>merge</td><td>working …</td><td></td>" in stages


def test_a_run_that_missed_a_gate_is_not_listed_as_failed():
    failed, done = make_progress("failed").job, make_progress("done").job
    assert train_view.run_label(failed, has_bundle=True).startswith(
        "handbook: finished, a gate was not met, quick"
    )
    assert train_view.run_label(failed).startswith("handbook: failed, quick")
    assert train_view.run_label(done, has_bundle=True).startswith("handbook: done, quick")


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (None, "No training run yet. Add documents, give the model a name and press Train."),
        (make_progress("queued", ("done", "waiting")), "handbook waits for its turn."),
        (make_progress(), "handbook is running at stage2 (stage 2 of 3)."),
        (make_progress(cancelling=True), "handbook is being cancelled at stage2 (stage 2 of 3)."),
        (make_progress(stages=("done",)), "handbook is finishing."),
        (
            make_progress("cancelled", ("stopped",)),
            "handbook was cancelled at stage1 (stage 1 of 1). Retry goes on from the last finished stage.",
        ),
        (
            make_progress("failed", ("failed",), error="No disk."),
            "handbook failed at stage1 (stage 1 of 1): No disk.",
        ),
        (
            make_progress("failed", ("done",), error="KL is 0.3, not 0.1.", bundle=Path("b"), verdict="No."),
            "handbook is finished, but a quality gate was not met: KL is 0.3, not 0.1. Look at Quality gates in the "
            "Library, or at report.html in its folder. No. The model is now in Compare.",
        ),
        (
            make_progress("done", ("done",), verdict="It answers 64 %.", bundle=Path("b")),
            "handbook is done. It answers 64 %. The model is now in Compare.",
        ),
    ],
)
def test_the_state_is_one_plain_sentence(progress, line):
    assert train_view.state_line(progress) == line
