"""What the Train tab shows, as HTML and SVG: stages, loss, documents, log, state. Knows no gradio and starts nothing.

Names and texts come from documents of others, so every one is escaped.
"""

from collections.abc import Iterable, Sequence
from html import escape

from factory.report.model import DocumentLoss, LossPoint, QuarantinedFile
from factory.web.job import Job
from factory.web.job_progress import Progress, ReadFile, StageProgress
from factory.web.uploads import Upload

STYLE = """
table { width: 100%; border-collapse: collapse; margin: .3em 0 1em; }
caption { text-align: left; font-weight: 600; padding: .3em 0; }
th, td { text-align: left; vertical-align: top; padding: .25em .6em .25em 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--border-color-primary); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; margin: .3em 0 1em; }
svg { width: 100%; max-width: 720px; height: auto; }
"""
MAX_ROWS = 200
MAX_POINTS = 400
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 48, 12, 12, 34
REASONS: dict[str, str] = {
    "empty": "The file is empty",
    "no_text": "It holds no text",
    "encrypted": "It is locked with a password",
    "corrupt": "It is damaged or not what its name says",
    "macros": "It can hold macros",
    "too_large": "It is too large",
    "zip_bomb": "It unpacks to far more than it is",
    "path_traversal": "A name in it points outside the archive",
    "nested_too_deep": "Archives in archives, too deep",
    "unsupported": "This kind of file is not read",
    "executable": "It is a program",
    "secrets": "It is made to hold passwords and keys",
    "timeout": "Reading it took too long",
    "out_of_memory": "Reading it takes too much memory",
    "crashed": "The parser died on it",
    "link": "It is a link",
    "unreadable": "It may not be opened",
    "instructions": "It speaks to a language model instead of to readers",
}
STATUS = {
    "done": "done",
    "working": "working …",
    "failed": "failed",
    "stopped": "stopped here",
    "waiting": "waiting",
}
STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}


def run_label(job: Job, has_bundle: bool = False) -> str:
    """Return how a job is called in the list of runs; one that failed and has a bundle missed a quality gate."""
    state = "finished, a gate was not met" if has_bundle and job.state == "failed" else STATES[job.state]
    return f"{job.id}: {state}, {job.recipe}, {job.created:%Y-%m-%d %H:%M} UTC"


def state_line(progress: Progress | None) -> str:
    """Return what a run is doing in a sentence; it changes with the state and the stage only, as it is read aloud."""
    if progress is None:
        return "No training run yet. Add documents, give the model a name and press Train."
    job, number = progress.job, len(progress.stages)
    at = next((i for i, row in enumerate(progress.stages, 1) if row.stage == progress.current), None)
    where = f" at {progress.current} (stage {at} of {number})" if at else ""
    if job.state == "queued":
        return f"{job.id} waits for its turn."
    if progress.cancelling:
        return f"{job.id} is being cancelled{where}."
    if job.state == "running":
        return f"{job.id} is running{where}." if at else f"{job.id} is finishing."
    if job.state == "cancelled":
        return f"{job.id} was cancelled{where}. Retry goes on from the last finished stage."
    parts = [_end(job, where, has_bundle=progress.bundle is not None)]
    parts += [progress.verdict, "The model is now in Compare." if progress.bundle else ""]
    return " ".join(part for part in parts if part)


def _end(job: Job, where: str, *, has_bundle: bool) -> str:
    if job.state == "done":
        return f"{job.id} is done."
    if not has_bundle:
        return f"{job.id} failed{where}: {job.error}"
    return (
        f"{job.id} is finished, but a quality gate was not met: {str(job.error).rstrip('.')}. Look at Quality gates "
        "in the Library, or at report.html in its folder."
    )


def stage_table(stages: Iterable[StageProgress]) -> str:
    """Return the stages of a run with their status and time."""
    rows = [
        (row.stage, STATUS[row.status], "" if row.seconds is None else _time(row.seconds)) for row in stages
    ]
    return _table("Stages", ("Stage", "Status", "Time"), rows)


def document_tables(read: Sequence[ReadFile], quarantined: Sequence[QuarantinedFile]) -> str:
    """Return what a run has read, and what it has not and why."""
    rows = [(row.path, f"{row.characters:,}") for row in read]
    return _refusals("Not read", quarantined) + _table(f"Read: {len(read)}", ("Document", "Characters"), rows)


def preview_tables(readable: Sequence[Upload], refused: Sequence[QuarantinedFile]) -> str:
    """Return what is to be read of the files that were added, and what is not and why."""
    rows = [(row.name, _size(row.size_bytes)) for row in readable]
    will = _table(f"Will be read: {len(readable)}", ("Document", "Size"), rows)
    return _refusals("Will not be read", refused) + will


def log_panel(lines: Sequence[str]) -> str:
    """Return the last lines of a run's log."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else "<p>The log is empty.</p>"


def loss_panel(
    points: Sequence[LossPoint], num_steps: int | None, least_learned: Sequence[DocumentLoss] = ()
) -> str:
    """Return the loss curve with the same said in words below, and the documents that are learned least."""
    if not points:
        return "<p>The loss curve appears once training has begun.</p>"
    first, last = points[0], points[-1]
    of = f" of {num_steps}" if num_steps else ""
    words = f"Loss {first.loss:.2f} at step {first.step}, {last.loss:.2f} at step {last.step}{of}."
    rows = [(row.document, f"{row.loss:.2f}", str(row.rows)) for row in least_learned]
    head = ("Document", "Loss (nats a token)", "Rows")
    table = _table("Least learned so far", head, rows) if rows else ""
    return f"{loss_svg(points, num_steps)}<p>{words}</p>{table}"


def loss_svg(points: Sequence[LossPoint], num_steps: int | None) -> str:
    """Draw the training loss over the steps, from 0 to its highest value and to the last step there will be."""
    last, highest = max(points[-1].step, num_steps or 1), max(point.loss for point in points) or 1.0
    line = " ".join(
        f"{LEFT + (WIDTH - LEFT - RIGHT) * point.step / last:.1f},"
        f"{TOP + (HEIGHT - TOP - BOTTOM) * (1 - point.loss / highest):.1f}"
        for point in _thinned(points)
    )
    end_x, end_y = line.rpartition(" ")[2].split(",")
    floor, label = HEIGHT - BOTTOM, f"Training loss from {points[0].loss:.2f} to {points[-1].loss:.2f}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" font-size="12" fill="currentColor">'
        f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}" fill="none" stroke="currentColor" opacity=".4"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>'
        f'<circle cx="{end_x}" cy="{end_y}" r="3" fill="#2563eb"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{highest:.2f}</text>'
        f'<text x="{LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 10}">loss (nats a token) over steps</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">{last}</text></svg>'
    )


def _thinned(points: Sequence[LossPoint]) -> Sequence[LossPoint]:
    """Return at most `MAX_POINTS` points, evenly taken, the last one always."""
    step = -(-len(points) // MAX_POINTS)
    return points if step == 1 else points[::-1][::step][::-1]


def _refusals(caption: str, rows: Sequence[QuarantinedFile]) -> str:
    if not rows:
        return ""
    cells = [(row.path, REASONS.get(row.reason, row.reason), row.detail) for row in rows]
    return _table(f"{caption}: {len(rows)}", ("File", "Why", "What was found and what to do"), cells)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[:MAX_ROWS]
    )
    more = f"<p>and {len(rows) - MAX_ROWS} more</p>" if len(rows) > MAX_ROWS else ""
    head_row = f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
    return f"<table>{head_row}<tbody>{body}</tbody></table>{more}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 100_000 else f"{size_bytes:,} bytes"
