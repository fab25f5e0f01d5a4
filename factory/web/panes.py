"""What the Compare tab's panes share: their components, their choices, and how errors reach the page. Asks nothing."""

import contextlib
import html
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from factory.api.router import Router
from factory.errors import FactoryError
from factory.web.asking import Settings
from factory.web.markup import chat_text, paragraph

MAX_PANES = 4
LONGEST_QUESTION = 4000
MAX_SEED = 2**31 - 1
UNDER_WAY = "…"  # what every line ends with that says that an answer is being given
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Pane(NamedTuple):
    """The components of one pane; `response` holds the id of its last answer."""

    column: Any
    model: Any
    chat: Any
    identity: Any
    status: Any
    stop: Any
    anew: Any
    response: Any


class State(NamedTuple):
    """The components that handlers of this tab share.

    `stopped` holds turns and panes that were stopped or left: what is still on its way from them is not shown.
    """

    conversation: Any
    turn: Any
    asked: Any
    question: Any
    remember: Any
    count: Any
    notice: Any
    panes: list[Pane]
    settings: list[Any]
    stopped: set[tuple[str, int]]


def stop_pane(stopped: set[tuple[str, int]], turn: Any, number: int, status: Any) -> Any:
    """Stop a pane and return its status; what had ended before keeps what was measured of it."""
    stopped.add((str(turn), number))
    return paragraph("Stopped.") if UNDER_WAY in str(status) else {"__type__": "update"}


def leave_turn(stopped: set[tuple[str, int]], turn: Any) -> None:
    """Keep what all panes are still saying to a turn from the page."""
    stopped.update((str(turn), number) for number in range(MAX_PANES))


def model_ids(router: Router) -> list[str]:
    """Return the ids of what is served."""
    return list(router.catalog.models)


def first_choices(router: Router) -> list[str]:
    """Return what the panes show at first: base, adapter, a quantized file, what is elsewhere, then anything."""
    models = router.catalog.models
    kinds = ("base", "adapter", "file", "endpoint", "stub")
    first = [next((name for name, model in models.items() if model.kind == kind), None) for kind in kinds]
    ordered = list(dict.fromkeys([*(name for name in first if name), *models]))
    return (ordered * MAX_PANES)[:MAX_PANES]


def read_settings(system: Any, temperature: Any, top_p: Any, max_tokens: Any, seed: Any) -> Settings:
    """Return the settings that the page's fields hold; an empty field reads as its default."""
    return Settings(
        str(system or "")[:LONGEST_QUESTION],
        0.0 if temperature is None else float(temperature),
        1.0 if top_p is None else float(top_p),
        128 if max_tokens is None else int(max_tokens),
        0 if seed is None else int(seed),
    )


def plain_turns(shown: Any) -> list[dict[str, str]]:
    """Return a chat's turns as the texts they are; gradio hands contents back as lists of typed parts."""
    turns = []
    for row in shown or []:
        content = row["content"]
        parts = content if isinstance(content, list) else [content]
        text = "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)
        turns.append({"role": str(row["role"]), "content": html.unescape(text)[:LONGEST_QUESTION]})
    return turns


def chat_turns(turns: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return turns as a chat shows them: no text becomes markup. `plain_turns` is the way back."""
    return [turn | {"content": chat_text(turn["content"])} for turn in turns]


def shown(message: str) -> Exception:
    """Return an error as gradio shows it, which takes a message for HTML."""
    import gradio

    error: Exception = gradio.Error(html.escape(message, quote=False), print_exception=False)
    return error


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn an error that was raised on purpose into a message on the page."""
    try:
        yield
    except FactoryError as error:
        raise shown(str(error)) from error
