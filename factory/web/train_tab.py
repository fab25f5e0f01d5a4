"""The Train tab: documents in, a queue of runs, their progress. Lays out and connects; `train_view` draws.

Every event is private and none is an API, but all can be called by who reaches the port: the queue checks what
comes in, jobs are looked up by id and recipes by label.
"""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from factory.errors import FactoryError
from factory.web import train_view
from factory.web.foreign import refuse_foreign_files
from factory.web.job import MAX_EPOCHS, Job
from factory.web.jobs import JobQueue
from factory.web.markup import paragraph
from factory.web.uploads import MAX_FILES, look_at

TICK_S = 2.0


class TrainTab(NamedTuple):
    """What the page's author needs of the tab.

    `refresh` is a handler that takes the value of `runs` and returns a value for each of `outputs`; the timer calls
    it, so a page needs `page.load(tab.refresh, tab.runs, tab.outputs, api_visibility="private")` only to be
    filled at once. `finished` is a state, the ids of the runs that gave a bundle: connect its `change` to what
    renews a list of models. `timer` ticks while something runs or waits.
    """

    files: Any
    runs: Any
    timer: Any
    finished: Any
    refresh: Callable[[Any], tuple[Any, ...]]
    outputs: list[Any]


def build_train_tab(gr: Any, queue: JobQueue, on_done: Callable[[Job], Any] | None = None) -> TrainTab:
    """Put the tab's components into the open container and connect them.

    The whole page refuses files that were not uploaded, from here on. `on_done` is called in the queue's thread with
    each job that ends with a bundle, whether a browser is open or not, before the page learns of it.
    """
    refuse_foreign_files(gr, gr.context.Context.root_block)
    form = _build_form(gr, queue)
    board = _build_board(gr)
    if on_done:
        queue.on_end(lambda job: on_done(job) if queue.bundle(job) else None)
    outputs = list(board)
    refresh = _make_refresh(gr, queue)
    private: dict[str, Any] = {"api_visibility": "private"}
    # Not past gradio's queue: only what comes through it makes a state's change known to the browser.
    watched = [board.runs, board.listed]
    board.timer.tick(
        refresh,
        watched,
        outputs,
        concurrency_limit=None,
        show_progress="hidden",
        trigger_mode="once",
        **private,
    )
    board.runs.input(refresh, board.runs, outputs, show_progress="hidden", **private)
    board.cancel.click(_guarded(gr, queue.cancel, refresh), board.runs, outputs, **private)
    board.retry.click(_guarded(gr, queue.retry, refresh), board.runs, outputs, **private)
    form.train.click(
        _make_submit(gr, queue, refresh),
        [form.files, form.name, form.recipe, form.epochs],
        [form.files, form.preview, *outputs],
        concurrency_limit=1,
        **private,
    )
    form.files.change(_preview, form.files, form.preview, show_progress="hidden", **private)
    return TrainTab(form.files, board.runs, board.timer, board.finished, refresh, outputs)


class _Form(NamedTuple):
    """What is asked for."""

    files: Any
    preview: Any
    name: Any
    recipe: Any
    epochs: Any
    train: Any


class _Board(NamedTuple):
    """What is shown of the runs; every field is an output of `refresh`, in this order."""

    runs: Any
    listed: Any
    finished: Any
    state: Any
    cancel: Any
    retry: Any
    stages: Any
    loss: Any
    documents: Any
    log: Any
    command: Any
    timer: Any


def _build_form(gr: Any, queue: JobQueue) -> _Form:
    files = gr.File(file_count="multiple", label="Documents", height=160)
    preview = gr.HTML("", css_template=train_view.STYLE, apply_default_css=False, js_on_load=None)
    with gr.Row():
        name = gr.Textbox(
            label="Name of the model",
            placeholder="my-handbook",
            info="Small letters, digits, '.', '_' and '-'.",
            max_length=64,
        )
        epochs = gr.Number(
            label="Quick look: number of epochs",
            info="0: as many as the recipe says. 1 or 2 show that all works, and teach little.",
            precision=0,
            minimum=0,
            maximum=MAX_EPOCHS,
            value=0,
        )
    choices = list(queue.recipes())
    first = "documents" if "documents" in choices else next(iter(choices), None)
    recipe = gr.Radio(choices, value=first, label="Recipe", info="How to train; the documents are yours.")
    return _Form(files, preview, name, recipe, epochs, gr.Button("Train", variant="primary"))


def _build_board(gr: Any) -> _Board:
    def panel(value: str = "") -> Any:
        return gr.HTML(value, css_template=train_view.STYLE, apply_default_css=False, js_on_load=None)

    state = panel(paragraph(train_view.state_line(None)))
    runs = gr.Radio([], label="Training runs, newest first")
    with gr.Row():
        cancel = gr.Button("Cancel this run", interactive=False)
        retry = gr.Button("Retry this run", interactive=False)
    return _Board(
        runs=runs,
        listed=gr.State(()),
        finished=gr.State(()),
        state=state,
        cancel=cancel,
        retry=retry,
        stages=panel(),
        loss=panel(),
        documents=panel(),
        log=panel(),
        command=gr.Textbox(
            label="The command that does the same",
            interactive=False,
            lines=2,
            buttons=["copy"],
            elem_id="train-command",
        ),
        timer=gr.Timer(TICK_S),
    )


def _make_refresh(gr: Any, queue: JobQueue) -> Callable[..., tuple[Any, ...]]:
    def refresh(chosen: Any = None, listed: Any = ()) -> tuple[Any, ...]:
        jobs = queue.jobs()
        job = next((job for job in jobs if job.id == chosen), jobs[0] if jobs else None)
        bundles = {job.id for job in jobs if queue.bundle(job)}
        labels = tuple((train_view.run_label(job, job.id in bundles), job.id) for job in jobs)
        # A list that is the same is left alone, so that it keeps the keyboard's focus.
        same = job is not None and job.id == chosen and tuple(listed or ()) == labels
        runs = gr.skip() if same else gr.Radio(choices=list(labels), value=job.id if job else None)
        finished = tuple(sorted(bundles))
        busy = any(job.active for job in jobs)
        return runs, labels, finished, *_panels(gr, queue, job), gr.Timer(active=busy)

    return refresh


def _panels(gr: Any, queue: JobQueue, job: Job | None) -> tuple[Any, ...]:
    """Return what is shown of one run: state, buttons, stages, loss, documents, log, command."""
    if job is None:
        empty = paragraph(train_view.state_line(None))
        return empty, gr.Button(interactive=False), gr.Button(interactive=False), "", "", "", "", ""
    progress = queue.progress(job)
    return (
        paragraph(train_view.state_line(progress)),
        gr.Button(interactive=job.active),
        gr.Button(interactive=job.state in {"failed", "cancelled"}),
        train_view.stage_table(progress.stages),
        train_view.loss_panel(progress.loss, progress.num_steps, progress.least_learned),
        train_view.document_tables(progress.read, progress.quarantined),
        train_view.log_panel(progress.log),
        progress.command,
    )


def _make_submit(gr: Any, queue: JobQueue, refresh: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    def submit(files: Any, name: Any, recipe: Any, epochs: Any) -> tuple[Any, ...]:
        try:
            job = queue.submit(name, recipe, _paths(files), epochs or None)
        except FactoryError as error:
            raise _shown(gr, error) from error
        for path in _paths(files):  # the job has its copies; gradio's lie where temporary files do
            path.unlink(missing_ok=True)
        return None, "", *refresh(job.id)

    return submit


def _guarded(
    gr: Any, act: Callable[[str], Job], refresh: Callable[..., tuple[Any, ...]]
) -> Callable[..., tuple[Any, ...]]:
    def handler(chosen: Any) -> tuple[Any, ...]:
        try:
            act(chosen)
        except FactoryError as error:
            raise _shown(gr, error) from error
        return refresh(chosen)

    return handler


def _preview(files: Any) -> str:
    paths = _paths(files)[:MAX_FILES]
    return train_view.preview_tables(*look_at(paths)) if paths else ""


def _paths(files: Any) -> list[Path]:
    return [Path(str(file)) for file in files or []]


def _shown(gr: Any, error: FactoryError) -> Exception:
    """Return an error as gradio shows it, which takes a message for HTML."""
    shown: Exception = gr.Error(escape(str(error), quote=False), print_exception=False)
    return shown
