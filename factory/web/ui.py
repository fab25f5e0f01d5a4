"""The playground page: chat with one file of a bundle and see which file answers. Serves nothing and opens no port."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factory.errors import FactoryError, MissingExtraError, UsageError
from factory.rows import Message
from factory.web.engine import Engine, ModelFile, list_files

if TYPE_CHECKING:
    import gradio as gr

LONGEST_QUESTION = 4000
CSS = """
.gradio-container { max-width: 880px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main { width: 100%; }
#identity p, #status p { font-size: 14px; opacity: .8; margin: 0; }
"""


def build_ui(bundles: list[Path], engine: Engine | None = None) -> "gr.Blocks":
    """Return the page for some bundles; a file is loaded when it is first asked.

    Raises:
        UsageError: there is no bundle.
        ExportError: a bundle is damaged.
        MissingExtraError: gradio is not installed.
    """
    files = list_files(bundles)
    if not files:
        raise UsageError(
            "There is no bundle to chat with: make one with `factory run recipes/quickstart.yaml`"
        )
    gr = load_gradio()
    first = next(iter(files))
    with gr.Blocks(title="Adapter Factory playground", analytics_enabled=False) as page:
        gr.Markdown(
            "# Adapter Factory playground\nThe answers come from a file on this machine. Nothing is sent anywhere."
        )
        choice = gr.Radio(list(files), value=first, label="Model")
        identity = gr.Markdown(f"Answers: {files[first].identity}", elem_id="identity")
        chat = gr.Chatbot(
            label="Chat",
            height=360,
            render_markdown=False,  # a reply could name a remote image, which the browser would fetch
            allow_tags=False,
            feedback_options=None,
            buttons=["copy", "copy_all"],
            placeholder="Ask about one fact of the documents this model was trained on.",
        )
        status = gr.Markdown("Ready.", elem_id="status")
        question = gr.Textbox(
            label="Question",
            placeholder="Type a question and press Enter",
            lines=1,
            max_length=LONGEST_QUESTION,
            autofocus=True,
        )
        with gr.Row():
            ask = gr.Button("Ask", variant="primary")
            stop = gr.Button("Stop")
            clear = gr.Button("Clear")
        remember = gr.Checkbox(
            label="Send the earlier turns along",
            info="Off by default: the model was trained and measured on single questions.",
        )
        parts = _Parts(choice, identity, chat, status, question, ask, stop, clear, remember)
        _connect(parts, files, _make_handler(gr, files, engine or Engine()))
    page.queue(max_size=32)
    return page


class _Parts(NamedTuple):
    """The components of the page that take part in events."""

    choice: Any
    identity: Any
    chat: Any
    status: Any
    question: Any
    ask: Any
    stop: Any
    clear: Any
    remember: Any


def _connect(
    parts: _Parts, files: dict[str, ModelFile], handler: Callable[..., Iterator[tuple[Any, ...]]]
) -> None:
    """Tie the buttons to their handlers; all of them are private, none is an API."""
    running = [
        trigger(
            handler,
            inputs=[parts.choice, parts.question, parts.chat, parts.remember],
            outputs=[parts.question, parts.chat, parts.identity, parts.status],
            concurrency_id="file",
            concurrency_limit=1,
            api_visibility="private",
        )
        for trigger in (parts.ask.click, parts.question.submit)
    ]
    parts.stop.click(lambda: "Stopped.", outputs=parts.status, cancels=running, api_visibility="private")
    parts.clear.click(
        lambda: ([], "Ready."), outputs=[parts.chat, parts.status], cancels=running, api_visibility="private"
    )
    parts.choice.change(
        lambda label: f"Answers: {files[label].identity}" if label in files else "",
        parts.choice,
        parts.identity,
        api_visibility="private",
    )


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


def _make_handler(
    gr: Any, files: dict[str, ModelFile], engine: Engine
) -> Callable[..., Iterator[tuple[Any, ...]]]:
    def answer(label: str, question: str, history: list[Any], remember: bool) -> Iterator[tuple[Any, ...]]:
        file = files.get(label)
        if file is None or not isinstance(question, str) or not question.strip():
            raise gr.Error("Choose a model and type a question.")
        shown = [*history, {"role": "user", "content": question.strip()}]
        identity = f"Answers: {file.identity}"
        yield "", shown, identity, "Loading or thinking …"
        started, text = time.perf_counter(), ""
        try:
            for text in engine.stream(
                file, _conversation(file.manifest.system, shown if remember else shown[-1:])
            ):
                yield "", [*shown, {"role": "assistant", "content": text}], identity, "Answering …"
        except FactoryError as error:
            raise gr.Error(str(error)) from error
        reply = {"role": "assistant", "content": text or "(no answer)"}
        took = f"Answered by {file.identity} in {time.perf_counter() - started:.1f} s."
        yield "", [*shown, reply], identity, took

    return answer


def _conversation(system: str, turns: Sequence[dict[str, Any]]) -> list[Message]:
    head = [Message(role="system", content=system)] if system else []
    return head + [Message(role=turn["role"], content=_text(turn["content"])) for turn in turns]


def _text(content: Any) -> str:
    """Return a turn's text; gradio hands back contents as a list of typed parts."""
    if isinstance(content, str):
        return content[:LONGEST_QUESTION]
    parts = content if isinstance(content, list) else [content]
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))[:LONGEST_QUESTION]
