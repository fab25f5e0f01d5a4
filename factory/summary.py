"""How a run ends: the report is written and the scores, the bundle and the next commands are said."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factory.errors import GateError
from factory.pipeline import Outcome, Run
from factory.report.build import write_report
from factory.scores import Score
from factory.tasks.tally import describe


def finish(run: Run, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Write report.json and report.html, then print what was learned and what to type next."""
    report = write_report(
        run.out,
        recipe_name=run.recipe.name,
        stages=[asdict(stage) for stage in outcome.stages],
        failure=str(outcome.error) if outcome.error and not isinstance(outcome.error, GateError) else None,
    )
    for line in closing_lines(
        run.out, report, finished=(run.out / "bundle").is_dir() and outcome.error is None
    ):
        say(line)


def closing_lines(out: Path, report: dict[str, Any], *, finished: bool) -> list[str]:
    """Return the last lines of a run."""
    lines = ["", str(report["verdict"]), ""]
    for score in report["scores"]:
        lines.append(f"  {describe(Score.model_validate(score))}")
    lines += ["", f"report  {out / 'report.html'}"]
    if finished:
        bundle = out / "bundle"
        lines += [
            f"bundle  {bundle}",
            "",
            "next:",
            f'  factory ask {bundle} "…"            ask it something',
            f"  factory serve {bundle}              chat and compare in the browser, API for programs",
            f"  factory push-ollama {bundle}        give it to a running Ollama",
        ]
    return lines
