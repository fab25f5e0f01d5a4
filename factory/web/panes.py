"""What the Compare tab's panes share: their components, their choices, and how errors reach the page. Asks nothing."""

import asyncio
import contextlib
import html
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from factory.api.router import Router
from factory.errors import FactoryError
from factory.history.rows import Answer
from factory.web.asking import NO_ANSWER, Settings, drawn, identity_line, stats
from factory.web.markup import chat_text, paragraph

MAX_PANES = 4
LONGEST_QUESTION = 4000
MAX_SEED = 2**31 - 1
NOTE = "note"
LONGEST_LAST_WORD_S = 3.0
ARRIVAL_S = 0.3  # in which an event's last message was seen to come to the page after a later event's first
UNDER_WAY = "…"  # what every line ends with that says that an answer is being given
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Pane(NamedTuple):
    """The components of one pane; `response` holds the id of its last answer."""

    column: Any
    model: Any
    chat: Any
    status: Any
    stop: Any
    anew: Any
    response: Any


class State(NamedTuple):
    """The components that handlers of this tab share, and which panes were stopped."""

    conversation: Any
    turn: Any
    asked: Any
    question: Any
    remember: Any
    count: Any
    notice: Any
    panes: list[Pane]
    settings: list[Any]
    stops: "Stops"


class Stops:
    """Which panes were stopped, or left, at which turn, and which are still showing an answer to one."""

    def __init__(self) -> None:
        """Begin with none."""
        self._stopped: set[tuple[str, int]] = set()
        self._showing: Counter[tuple[str, int]] = Counter()
        self._arrived: dict[tuple[str, int], float] = {}

    @contextlib.contextmanager
    def showing(self, turn: str, number: int) -> Iterator[None]:
        """Hold while a pane shows an answer; it is stopped no longer."""
        self._stopped.discard((turn, number))
        self._showing[turn, number] += 1
        try:
            yield
        finally:
            self._showing[turn, number] -= 1
            self._showing += Counter()  # drops what is at zero
            now = time.monotonic()
            self._arrived = {pane: when for pane, when in self._arrived.items() if when > now}
            self._arrived[turn, number] = now + ARRIVAL_S

    def has(self, turn: str, number: int) -> bool:
        """Tell whether a pane has been stopped at a turn, so that nothing more may be shown."""
        return (turn, number) in self._stopped

    async def silence(self, turn: Any, numbers: Iterable[int]) -> None:
        """Stop panes and return when their last word has been shown, so that it comes after nothing."""
        panes = {(str(turn), number) for number in numbers}
        self._stopped |= panes
        deadline = time.monotonic() + LONGEST_LAST_WORD_S
        while self._speaks(panes) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _speaks(self, panes: set[tuple[str, int]]) -> bool:
        now = time.monotonic()
        return any(pane in self._showing or self._arrived.get(pane, 0.0) > now for pane in panes)


async def stop_pane(stops: Stops, turn: Any, number: int, status: Any) -> Any:
    """Stop a pane and return its status; what had ended before keeps what was measured of it."""
    await stops.silence(turn, [number])
    return paragraph("Stopped.") if UNDER_WAY in str(status) else {"__type__": "update"}


async def leave_turn(stops: Stops, turn: Any) -> None:
    """Keep what all panes are still saying to a turn from the page."""
    await stops.silence(turn, range(MAX_PANES))


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
    """Return a chat's turns as the texts they are; gradio hands contents back as lists of typed parts.

    The role of a line that says who gave the answer above it is `NOTE`.
    """
    turns = []
    for row in shown or []:
        content = row["content"]
        parts = content if isinstance(content, list) else [content]
        text = "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in parts)
        role = NOTE if (row.get("metadata") or {}).get("id") == NOTE else str(row["role"])
        turns.append({"role": role, "content": html.unescape(text)[:LONGEST_QUESTION]})
    return turns


def chat_turns(turns: Iterable[dict[str, str]]) -> list[dict[str, Any]]:
    """Return turns as a chat shows them: no text becomes markup. `plain_turns` is the way back."""
    return [_chat_turn(turn["role"], chat_text(turn["content"])) for turn in turns]


def _chat_turn(role: str, content: str) -> dict[str, Any]:
    if role == NOTE:
        return {"role": "assistant", "content": content, "metadata": {"id": NOTE}}
    return {"role": role, "content": content}


def spoken(turns: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return the turns that were said, without the notes on who said them."""
    return [turn for turn in turns if turn["role"] != NOTE]


def answer_turns(answer: Answer) -> list[dict[str, str]]:
    """Return an answer and the note below it: who gave it, how it was drawn, and what was measured."""
    lines = [identity_line(answer), " · ".join(filter(None, [drawn(answer), stats(answer)]))]
    return said(answer.text, "\n".join(lines))


def said(text: str, note: str) -> list[dict[str, str]]:
    """Return an answer's text and the note below it; a note stands below an answer always, so a blank one is named."""
    return [{"role": "assistant", "content": text.strip() or NO_ANSWER}, {"role": NOTE, "content": note}]


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
