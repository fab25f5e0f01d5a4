"""The report's charts as inline SVG. Colours are CSS variables of the page, so one drawing suits light and dark.

Fonts are the reader's; ids are deterministic; no chart names anything outside the page.
"""

import html
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factory.report.model import FileSize, LossPoint, RecallPoint
from factory.scores import Score

WIDTH_INCHES = 7.4
POINT = 72  # SVG units an inch
LABEL_LENGTH = 26
SETTINGS: Any = {
    "svg.hashsalt": "adapter-factory",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# The page's light colours; each becomes `var(--name)` in the SVG.
COLOURS = {
    "ink": "#1b2430",
    "soft": "#5d6b7e",
    "line": "#d9dfe7",
    "base": "#98a3b3",
    "rag": "#c98a1b",
    "adapter": "#2458d3",
    "gguf": "#7aa2f7",
    "card": "#fffffe",
}


def score_colour(score: Score) -> str:
    """Return the name of the colour a kind of model has in every chart and table."""
    if score.method == "rag":
        return "rag"
    return {"base": "base", "endpoint": "base", "gguf": "gguf"}.get(score.kind, "adapter")


def score_label(score: Score) -> str:
    """Return how a model is called beside its bar."""
    name = {"adapter": "adapter", "merged": "merged model"}.get(score.kind, score.model.removesuffix(".gguf"))
    if score.kind == "base":
        name = "base + retrieval" if score.method == "rag" else "base"
    elif score.method == "rag":
        name += " + retrieval"
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1] + "…"


def accuracy_chart(scores: Sequence[Score], what: str) -> str:
    """Draw a bar with its interval for each model's share of right answers."""
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _axes(0.75 + 0.5 * len(scores))
        for row, score in enumerate(scores):
            colour = COLOURS[score_colour(score)]
            axes.barh(row, 100 * score.accuracy, height=0.56, color=colour)
            low, high = 100 * score.low, 100 * score.high
            for tint, width in (("card", 5.0), ("ink", 1.6)):  # a halo keeps the line readable on its bar
                axes.plot([low, high], [row, row], color=COLOURS[tint], linewidth=width)
                for end in (low, high):
                    axes.plot([end, end], [row - 0.14, row + 0.14], color=COLOURS[tint], linewidth=width)
            axes.text(
                100 * max(score.high, score.accuracy) + 2, row, f"{100 * score.accuracy:.0f} %",
                va="center", color=COLOURS["ink"], weight="bold",
            )  # fmt: skip
        axes.set_yticks(range(len(scores)), [score_label(score) for score in scores])
        axes.set_ylim(len(scores) - 0.4, -0.6)
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
        axes.grid(axis="x", color=COLOURS["line"], linewidth=1)
        _style(axes, hide=("left",))
        spoken = "; ".join(f"{score_label(score)} {100 * score.accuracy:.0f} percent" for score in scores)
        return _svg(figure, f"Bar chart, {what}: {spoken}.")


def loss_chart(points: Sequence[LossPoint]) -> str:
    """Draw the training loss of one stage: every step thin, the running mean bold."""
    name, unit = ("training", "token") if points[0].stage == "rows" else ("preference", "pair")
    steps, losses = [point.step for point in points], [point.loss for point in points]
    window = max(1, len(points) // 25)
    means = [sum(losses[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(losses))]
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _axes(3.4)
        axes.plot(steps, losses, color=COLOURS["gguf"], linewidth=1, alpha=0.6)
        axes.plot(steps, means, color=COLOURS["adapter"], linewidth=2.2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_ylabel(f"loss (nats a {unit})")
        _style(axes)
        return _svg(
            figure,
            f"Line chart: {name} loss from {losses[0]:.2f} to {losses[-1]:.2f} up to step {steps[-1]}.",
        )


def recall_chart(points: Sequence[RecallPoint]) -> str:
    """Draw the share of validation questions answered during training."""
    steps, shares = [point.step for point in points], [100 * point.recall for point in points]
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _axes(3.4)
        axes.plot(steps, shares, color=COLOURS["adapter"], linewidth=2.2, marker="o", markersize=6)
        axes.set_ylim(0, 105)
        axes.set_xlim(left=0)
        axes.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
        axes.set_xlabel("step")
        axes.set_ylabel("validation questions answered")
        _style(axes)
        return _svg(figure, f"Line chart: recall on validation questions ends at {shares[-1]:.0f} percent.")


def size_chart(sizes: Sequence[FileSize]) -> str:
    """Draw each GGUF file's share of right answers over its size, with intervals."""
    shown = [size for size in sizes if size.accuracy is not None]
    with matplotlib.rc_context(SETTINGS):
        figure, axes = _axes(3.4)
        for size in shown:
            mean, low, high = (100 * float(value or 0) for value in (size.accuracy, size.low, size.high))
            place = size.bytes / 1e6
            axes.plot([place, place], [low, high], color=COLOURS["soft"], linewidth=1.6)
            axes.plot(place, mean, "o", markersize=10, color=COLOURS["adapter"])
            label = size.file.removeprefix("model-").removesuffix(".gguf")
            axes.annotate(
                label, (place, mean), (10, 0), textcoords="offset points", va="center", color=COLOURS["ink"]
            )
        largest = max(size.bytes for size in shown) / 1e6
        axes.set_xlim(0, largest * 1.25)
        axes.set_ylim(0, 105)
        axes.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
        axes.set_xlabel("file size (MB)")
        axes.set_ylabel("right answers")
        _style(axes)
        spoken = "; ".join(
            f"{size.file} {size.bytes / 1e6:.0f} MB {100 * (size.accuracy or 0):.0f} percent"
            for size in shown
        )
        return _svg(figure, f"Scatter chart of file size against right answers: {spoken}.")


def _axes(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _style(axes: Axes, hide: Sequence[str] = ()) -> None:
    axes.set_axisbelow(True)
    if not hide:
        axes.grid(axis="y", color=COLOURS["line"], linewidth=1)
    for name, spine in axes.spines.items():
        spine.set_color(COLOURS["line"])
        spine.set_visible(name == "bottom" or (name == "left" and name not in hide))
    axes.tick_params(length=0, labelcolor=COLOURS["ink"], pad=6)
    axes.xaxis.label.set_color(COLOURS["soft"])
    axes.yaxis.label.set_color(COLOURS["soft"])


def _svg(figure: Figure, description: str) -> str:
    text = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # A letter that the measuring font lacks is drawn by the reader's font all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(text, format="svg", metadata=empty)
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*<g(?: id=\"[^\"]*\")?/>", "", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("'DejaVu Sans'", "system-ui, sans-serif").replace("xlink:href", "href")
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    height = round(figure.get_figheight() * POINT)
    width, label = round(WIDTH_INCHES * POINT), html.escape(description)
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, body, count=1).strip()
