"""The report as one HTML page that needs nothing else: no script, no font, no address. Formats; computes no result."""

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from factory.bundle.card import METHODS, QUESTION_SETS
from factory.report import charts, tables
from factory.report.model import Report, Sample
from factory.report.verdict import main_set
from factory.scores import DocumentScore, Score

NOTHING = "\u2013"
MAX_ROWS = 200
MAX_CLAIMS = 10  # of one conflict
MAX_TEXT = 400
TITLES = {
    "user": "Your own questions",
    "unseen_phrasing": "Held-out questions in unseen phrasing",
    "unseen_fact": "Facts it never saw: how often it abstains",
    "general": "General knowledge: what it kept",
}
TOLD = {
    "user": "Right answers to the questions you brought.",
    "unseen_phrasing": "Right answers to questions on trained facts, in a form that no training row has. They keep "
    "most of the documents' own words: what people ask freely is harder.",
    "unseen_fact": "It should say that it does not know. A right answer here is an abstention.",
    "general": "Questions that have nothing to do with the documents. A drop against the base is forgetting.",
}


def render_page(report: Report) -> str:
    """Return the page as HTML; every text from documents, questions and models is escaped."""
    environment = Environment(
        loader=PackageLoader("factory.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "right_of": _right,
        "part": lambda share: _percent(share and share.share),
        "size": _size,
        "duration": _duration,
        "number": _number,
        "clipped": _clipped,
        "spoken": lambda key: str(key).replace("_", " "),
    }
    source = environment.loader.get_source(environment, "report.css")[0] if environment.loader else ""
    headline, rest = split_sentence(report.verdict)
    return environment.get_template("report.html.jinja").render(
        report=report,
        css=Markup(source),
        known=_score_groups(report, ("user", "unseen_phrasing")),
        kept=_score_groups(report, ("unseen_fact", "general")),
        hedged=[(TITLES[name], rows) for name, rows in tables.hedged(report).items()],
        comparisons=[(TITLES[name], rows) for name, rows in tables.comparisons(report).items()],
        documents=tables.documents(report),
        nothing=DocumentScore(document="", question_set="user", n=0),
        document_sets=tables.document_sets(report),
        curves=_curves(report),
        size_chart=_chart(charts.size_chart, report.sizes)
        if any(s.accuracy is not None for s in report.sizes)
        else "",
        headline=headline,
        rest=rest,
        decided_by="your own questions" if main_set(report.scores) == "user" else "the held-out questions",
        samples=_sample_groups(report.samples),
        stages=_stage_rows(report),
        read=report.counts.get("corpus", {}),
        curated=report.counts.get("dataset", {}),
        provenance=_provenance(report),
        settings=_settings(report),
        failed_gates=[gate for gate in report.gates if not gate.passed],
        max_rows=MAX_ROWS,
        max_claims=MAX_CLAIMS,
        methods=METHODS,
    )


def split_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence of a text and the rest; a full stop inside a number or a name ends none."""
    match = re.search(r"\. (?=\S)", text)
    return (text[: match.start() + 1], text[match.end() :]) if match else (text, "")


def _chart(draw: Any, *arguments: Any) -> Markup:
    return Markup(draw(*arguments))


def _score_groups(report: Report, question_sets: Sequence[str]) -> list[dict[str, Any]]:
    groups = []
    for name in question_sets:
        scores = sorted(
            (s for s in report.scores if s.question_set == name), key=lambda s: s.model, reverse=True
        )
        scores.sort(key=_bar_order)  # larger files first within a kind
        if scores:
            chart = _chart(charts.accuracy_chart, scores, QUESTION_SETS[name])
            groups.append(
                {
                    "title": TITLES[name],
                    "told": TOLD[name],
                    "n": scores[0].n,
                    "chart": chart,
                    "scores": scores,
                }
            )
    return groups


def _bar_order(score: Score) -> int:
    kinds = ["base", "adapter", "merged", "gguf", "endpoint"]
    return 2 * kinds.index(score.kind) + (score.method == "rag")


def _curves(report: Report) -> list[dict[str, Any]]:
    curves = []
    for stage, title in (("rows", "Training loss"), ("preferences", "Preference loss")):
        if points := [point for point in report.loss if point.stage == stage]:
            curves.append({"title": title, "chart": _chart(charts.loss_chart, points)})
    if report.recall:
        curves.append(
            {"title": "Recall during training", "chart": _chart(charts.recall_chart, report.recall)}
        )
    return curves


def _sample_groups(samples: Sequence[Sample]) -> list[tuple[str, list[Sample]]]:
    right = [sample for sample in samples if sample.correct]
    wrong = [sample for sample in samples if not sample.correct]
    return [(title, group) for title, group in (("Wrong", wrong), ("Right", right)) if group]


def _stage_rows(report: Report) -> list[dict[str, Any]]:
    longest = max((stage.seconds or 0 for stage in report.stages), default=0) or 1
    largest = max((stage.peak_memory_bytes or 0 for stage in report.stages), default=0) or 1
    return [
        {
            "stage": stage,
            "time_share": 100 * (stage.seconds or 0) / longest,
            "memory_share": 100 * (stage.peak_memory_bytes or 0) / largest,
        }
        for stage in report.stages
    ]


def _provenance(report: Report) -> list[tuple[str, list[tuple[str, Any]]]]:
    rows = []
    for name, counts in report.counts.items():
        plain = [(key, value) for key, value in counts.items() if isinstance(value, int | float | str)]
        if plain:
            rows.append((name, plain))
    return rows


def _settings(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = []
    for name, config in report.settings.items():
        values = [(key, _plain(value)) for key, value in config.items()]
        if values:
            groups.append((name, values))
    return groups


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {entry}" for key, entry in value.items()) or "none"
    return "none" if value is None or value == "" else str(value)


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f} %"


def _right(share: float | None, n: int) -> str:
    return NOTHING if share is None else f"{round(share * n)} of {n}"


def _size(value: float | None) -> str:
    if value is None:
        return NOTHING
    if round(value) < 1000:
        return f"{value:.0f} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if round(value / scale, 1) < 1000:
            return f"{value / scale:.1f} {unit}"
    return f"{value / 1e9:.1f} GB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _number(value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"
