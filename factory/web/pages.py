"""The playground's page: its tabs over one router, mounted into the API's application. Answers nothing itself."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.api.router import Router
from factory.errors import MissingExtraError
from factory.history.history import History, default_path
from factory.web.job import Job

if TYPE_CHECKING:
    import fastapi

    from factory.web.jobs import JobQueue

PATH = "/ui"
COMPARE = "compare"
CSS = """
.gradio-container { max-width: 1280px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
.status p, #notice p { font-size: 13px; opacity: .85; margin: 2px 0; overflow-wrap: anywhere; }
.status .html-container { padding: 2px 4px; }
.block:has(> .html-container > div:empty) { display: none; }
.pane { border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 10px; }
.pane button[aria-label="Clear"] { display: none; }
/* The second of two bubbles is the note on the answer above it, and stands beside that one's copy button. */
.pane .bubble.message-row { margin: 10px 12px 2px; }
.pane .bubble.message-buttons { margin: 0 12px; }
.pane .bubble.message-buttons .icon-button-wrapper { margin: 0; }
.pane .bot-row + .bot-row, .pane .bot-row + .message-buttons + .bot-row { margin: 0 12px 6px 42px; max-width: none; }
.pane .bot-row + .message-buttons + .bot-row { margin-top: -24px; min-height: 24px; }
.pane .bot-row + .bot-row .message, .pane .bot-row + .message-buttons + .bot-row .message { background: none;
  border: 0; box-shadow: none; padding: 0; font-size: 12px; line-height: 1.4; }
.pane .bot-row + .bot-row .message-content *, .pane .bot-row + .message-buttons + .bot-row .message-content * {
  font-size: 12px; line-height: 1.4; color: var(--body-text-color-subdued); }
.pane .bot-row + .bot-row + .message-buttons,
.pane .bot-row + .message-buttons + .bot-row + .message-buttons { display: none; }
/* A checked radio loses its dot under the mouse: gradio's rule for that stands before the one for any radio. */
.gradio-container input[type=radio]:checked:hover:not([disabled]) { background-image: var(--radio-circle);
  background-color: var(--checkbox-background-color-selected); border-color: var(--checkbox-border-color-selected); }
.download { display: inline-block; padding: 6px 14px; border-radius: var(--button-large-radius); font-weight: 600;
  background: var(--button-secondary-background-fill); color: var(--button-secondary-text-color) !important;
  text-decoration: none !important; }
.download:hover { background: var(--button-secondary-background-fill-hover); }
.table-scroll table { font-size: 13px; border-collapse: collapse; width: 100%; }
.table-scroll table, .table-scroll tr { border: 0 !important; }
.table-scroll caption { text-align: left; font-weight: 600; padding: 6px 0; }
.table-scroll th, .table-scroll td { text-align: left; padding: 4px 8px; vertical-align: top; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
"""


def load_gradio() -> Any:
    """Return the gradio module, imported with its analytics off.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError(
            "The playground needs gradio: pip install 'adapter-factory[playground]'"
        ) from error
    return gradio


def mount_pages(app: "fastapi.FastAPI", router: Router, root: Path, history: History | None = None) -> None:
    """Put the playground at /ui of an application; `root` is the project whose recipes and builds it shows.

    History and queue are closed when the application ends.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    from starlette.responses import Response

    from factory.web.aids import SCRIPT
    from factory.web.clean import CleanPages
    from factory.web.export import PATH as EXPORT_PATH
    from factory.web.export import make_export
    from factory.web.jobs import JobQueue

    gr = load_gradio()
    history = app.state.closing.enter_context(history or History(default_path()))
    queue = app.state.closing.enter_context(contextlib.closing(JobQueue(root / "build", root)))
    page = build_page(gr, router, root, history, queue)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "monospace"]
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=mono)
    theme.set(
        body_text_color_subdued="*neutral_500", input_placeholder_color="*neutral_500"
    )  # contrast 4.5 : 1
    options: dict[str, Any] = {
        "allowed_paths": [],
        "max_file_size": "200mb",
        "run_history": False,
        "footer_links": [],
        "pwa": False,
    }
    options |= {"theme": theme, "css": CSS, "js": SCRIPT}
    app.add_route(EXPORT_PATH, make_export(root))  # before the page, which answers for all below its path
    gr.mount_gradio_app(app, page, path=PATH, server_name="127.0.0.1", **options)
    app.add_route("/favicon.ico", lambda request: Response(status_code=204))
    app.add_middleware(CleanPages, path=PATH)


def build_page(gr: Any, router: Router, root: Path, history: History, queue: "JobQueue") -> Any:
    """Return the page with all its tabs."""
    from factory.web.blind_tab import build_blind_tab
    from factory.web.compare_tab import build_compare_tab
    from factory.web.library_tab import build_library_tab
    from factory.web.panes import model_ids
    from factory.web.train_tab import build_train_tab

    with gr.Blocks(title="Adapter Factory playground", analytics_enabled=False) as page:
        gr.Markdown(f"# Adapter Factory\n{promise(router)}")
        with gr.Tabs() as tabs:
            with gr.Tab("Compare", id=COMPARE):
                compare = build_compare_tab(gr, router, history)
            with gr.Tab("Blind test"):
                blind = build_blind_tab(gr, router, history)
            with gr.Tab("Train"):
                train = build_train_tab(gr, queue)
            with gr.Tab("Library"):
                build_library_tab(gr, root)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        known = gr.State(None)
        page.load(lambda: tuple(job.id for job in queue.jobs() if queue.bundle(job)), None, known, **private)
        page.load(train.refresh, train.runs, train.outputs, **private)
        page.load(compare.load, None, compare.load_outputs, **private)
        choices = [*compare.models, *blind]

        def renew(finished: Any, known: Any) -> list[Any]:
            router.renew()
            ids = model_ids(router)
            made = newest_model(queue.jobs(), finished, known, ids)
            updates = [gr.Radio(choices=ids) for _ in choices]
            if made:  # the second pane, beside the base
                updates[1] = gr.Radio(choices=ids, value=made)
            return [*updates, gr.Tabs(selected=COMPARE) if made else gr.skip(), finished]

        train.finished.change(renew, [train.finished, known], [*choices, tabs, known], **private)
    page.queue(max_size=64, default_concurrency_limit=8)
    return page


def newest_model(jobs: Sequence[Job], finished: Any, known: Any, ids: Sequence[str]) -> str | None:
    """Return the model of the newest run that finished since a page was opened, if it is served now.

    `finished` and `known` are ids of runs with a bundle, now and before; `known` is None until the page has been told.
    """
    fresh = set(finished or ()) - set(finished if known is None else known)
    served = {name: model for model in reversed(ids) for name in (model, model.rpartition(":")[0])}
    return next((served[job.name] for job in jobs if job.id in fresh and job.name in served), None)


def promise(router: Router) -> str:
    """Return one line on where answers come from, for the models that are served."""
    endpoints = [model.endpoint for model in router.catalog.models.values() if model.endpoint]
    if away := [endpoint.name for endpoint in endpoints if not endpoint.is_on_this_machine]:
        names = ", ".join(away)
        return f"Answers come from files on this machine, but for **{names}**: what is asked there leaves it."
    if endpoints:
        return "Answers come from files and servers on this machine. Nothing is sent anywhere else."
    return "Answers come from files on this machine. Nothing is sent anywhere."
