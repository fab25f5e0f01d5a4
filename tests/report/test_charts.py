"""Charts: which names and colours models get, what a screen reader is told, and that a drawing is sound SVG."""

import re
from xml.etree import ElementTree

import pytest

from factory.report.charts import (
    COLOURS,
    accuracy_chart,
    loss_chart,
    recall_chart,
    score_colour,
    score_label,
    size_chart,
)
from factory.report.model import FileSize, LossPoint, RecallPoint
from tests.scored import make_score


def score(kind="adapter", model="adapter", method="closed_book", accuracy=0.5):
    return make_score(model=model, kind=kind, method=method, n=40, accuracy=accuracy)


def size(name, num_bytes, accuracy=None):
    return FileSize(
        file=name, bytes=num_bytes, bits_per_weight=8.5, types={}, num_fallbacks=0, passed=True,
        accuracy=accuracy, low=accuracy and accuracy - 0.1, high=accuracy and accuracy + 0.1,
    )  # fmt: skip


def spoken(svg):
    """Return what a screen reader is told, from a drawing that must be well-formed."""
    root = ElementTree.fromstring(svg)
    assert (root.tag, root.get("role")) == ("svg", "img")
    return root.get("aria-label")


@pytest.mark.parametrize(
    ("kind", "model", "method", "label", "colour"),
    [
        ("base", "smollm2-135m-instruct", "closed_book", "base", "base"),
        ("base", "smollm2-135m-instruct", "rag", "base + retrieval", "rag"),
        ("adapter", "adapters/helpdesk", "closed_book", "adapter", "adapter"),
        ("adapter", "adapters/helpdesk", "rag", "adapter + retrieval", "rag"),
        ("merged", "merged", "closed_book", "merged model", "adapter"),
        ("gguf", "model-Q8_0.gguf", "closed_book", "model-Q8_0", "gguf"),
        ("gguf", "model-Q8_0.gguf", "rag", "model-Q8_0 + retrieval", "rag"),
        ("endpoint", "x" * 26, "closed_book", "x" * 26, "base"),
        ("endpoint", "x" * 27, "closed_book", "x" * 25 + "…", "base"),
    ],
)
def test_a_model_is_named_and_coloured_by_what_it_is(kind, model, method, label, colour):
    one = score(kind, model, method)
    assert (score_label(one), score_colour(one)) == (label, colour)


def test_a_bar_chart_tells_each_models_share_and_grows_by_half_an_inch_a_bar():
    scores = [score("base", "smollm2", accuracy=0.024), score(accuracy=0.476)]
    svg = accuracy_chart(scores, 'your "own" <questions>')
    assert spoken(svg) == 'Bar chart, your "own" <questions>: base 2 percent; adapter 48 percent.'
    assert 'viewBox="0 0 533 126"' in svg  # 7.4 and 0.75 + 2 · 0.5 inches of 72 units
    assert 'viewBox="0 0 533 162"' in accuracy_chart([*scores, score()], "x")
    assert ">48 %<" in svg


def test_charts_use_the_pages_colours_and_come_out_the_same_twice():
    drawn = [accuracy_chart([score("base"), score()], "x") for _ in range(2)]
    assert drawn[0] == drawn[1]
    used = set(re.findall(r"var\(--(\w+)\)", drawn[0]))
    assert {"base", "adapter", "ink", "line", "card"} <= used <= set(COLOURS)
    assert not any(colour in drawn[0] for colour in COLOURS.values())


def test_curves_tell_where_they_begin_and_end():
    losses = [LossPoint(step=step, loss=3.25 - 0.03 * step) for step in range(0, 101, 2)]
    recalls = [RecallPoint(step=10, recall=0.1), RecallPoint(step=20, recall=0.555)]
    assert spoken(loss_chart(losses)) == "Line chart: training loss from 3.25 to 0.25 up to step 100."
    assert spoken(recall_chart(recalls)) == "Line chart: recall on validation questions ends at 56 percent."
    assert spoken(loss_chart(losses[:1])).endswith("from 3.25 to 3.25 up to step 0.")
    pairs = [
        LossPoint(step=101, loss=0.69, stage="preferences"),
        LossPoint(step=102, loss=0.5, stage="preferences"),
    ]
    chart = loss_chart(pairs)
    assert spoken(chart) == "Line chart: preference loss from 0.69 to 0.50 up to step 102."
    assert "nats a pair" in chart
    assert "nats a pair" not in loss_chart(losses)


def test_files_that_were_not_asked_are_not_drawn():
    svg = size_chart([size("model-F16.gguf", 269_000_000), size("model-Q8_0.gguf", 144_800_000, 0.0)])
    assert spoken(svg) == (
        "Scatter chart of file size against right answers: model-Q8_0.gguf 145 MB 0 percent."
    )
    assert ">Q8_0<" in svg
    assert "F16" not in svg
