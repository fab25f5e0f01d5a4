"""The Compare tab: one question to up to four models side by side. Lays out and connects; `asking` asks.

Every event is private and none is an API, but all can be called by who reaches the port: models are looked up by id,
responses in the history, and settings checked as those of the API are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from factory.api.router import Router
from factory.history.history import History
from factory.web.markup import paragraph
from factory.web.pane_asking import make_asker, make_begin
from factory.web.pane_panels import build_feedback, build_history, build_sources, conversation_choices
from factory.web.panes import (
    LONGEST_QUESTION,
    MAX_PANES,
    MAX_SEED,
    PRIVATE,
    Pane,
    State,
    Stops,
    chat_turns,
    explained,
    first_choices,
    leave_turn,
    model_ids,
    plain_turns,
    shown,
    stop_pane,
)


class CompareTab(NamedTuple):
    """What the page's author needs: the panes' model choices, to be renewed when models come or go."""

    models: list[Any]
    load: Callable[[], tuple[Any, ...]]
    load_outputs: list[Any]


def build_compare_tab(gr: Any, router: Router, history: History) -> CompareTab:
    """Put the tab's components into the open container and connect them."""
    ids = model_ids(router)
    conversation, turn, asked = gr.State(None), gr.State(None), gr.State("")
    with gr.Row(elem_classes="top-row"):
        count = gr.Radio([2, 3, 4], value=2, label="Models side by side", elem_id="pane-count")
        remember = gr.Checkbox(
            label="Send the earlier turns along",
            info="The models were trained and measured on single questions.",
        )
    question = gr.Textbox(
        label="Question",
        placeholder="Type a question and press Enter",
        lines=1,
        max_length=LONGEST_QUESTION,
        autofocus=True,
        elem_id="question",
    )
    with gr.Row():
        ask_all = gr.Button("Ask all", variant="primary", size="md", elem_id="ask-all")
        stop_all = gr.Button("Stop all", size="md")
        edit = gr.Button("Edit last question", size="md")
        branch = gr.Button("Branch from here", size="md")
        clear = gr.Button("New conversation", size="md")
    notice = gr.HTML(paragraph("Ready."), elem_id="notice")
    with gr.Row(equal_height=False, elem_id="panes"):
        panes = [_build_pane(gr, number, ids, first) for number, first in enumerate(first_choices(router))]
    settings = _build_settings(gr)
    state = State(conversation, turn, asked, question, remember, count, notice, panes, settings, Stops())
    running = _connect_asking(state, router, history, ask_all)
    _connect_moves(state, history, running, stop_all, edit, branch, clear)
    build_feedback(gr, state, history)
    build_sources(gr, state, router, history)
    listing = build_history(gr, state, history, router)
    return CompareTab(
        [pane.model for pane in panes],
        lambda: tuple([conversation_choices(gr, history)]),
        [listing],
    )


def _build_pane(gr: Any, number: int, ids: list[str], first: str | None) -> Pane:
    with gr.Column(
        visible=number < 2, min_width=300, elem_classes="pane", elem_id=f"pane-{number + 1}"
    ) as column:
        model = gr.Radio(ids, value=first, label=f"Model of pane {number + 1}")
        chat = gr.Chatbot(
            label=f"Pane {number + 1}",
            show_label=False,  # it would lie over the first line
            height=400,
            render_markdown=False,  # an answer could name a remote image, which the browser would fetch
            allow_tags=False,
            feedback_options=None,
            group_consecutive_messages=False,  # the note below an answer is not copied along with it
            buttons=["copy", "copy_all"],
            placeholder="No question yet.",
        )
        status = gr.HTML(paragraph("Ready."), elem_classes="status")
        with gr.Row():
            stop = gr.Button(f"Stop pane {number + 1}", size="sm")
            anew = gr.Button("Ask again with another seed", size="sm")
    return Pane(column, model, chat, status, stop, anew, gr.State(None))


def _build_settings(gr: Any) -> list[Any]:
    with gr.Accordion("Settings for all panes", open=False):
        system = gr.Textbox(
            label="System text",
            lines=2,
            max_length=LONGEST_QUESTION,
            info="Blank: each model gets the text it was trained with.",
        )
        with gr.Row():
            temperature = gr.Number(
                0.0, label="Temperature", minimum=0, maximum=2, step=0.1, info="0: greedy"
            )
            top_p = gr.Number(1.0, label="Top-p", minimum=0, maximum=1, step=0.05)
            max_tokens = gr.Number(
                128, label="Longest answer, in tokens", precision=0, minimum=1, maximum=4096
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
    return [system, temperature, top_p, max_tokens, seed]


def _connect_asking(state: State, router: Router, history: History, ask_all: Any) -> list[Any]:
    """Connect the question to all panes, each in an event of its own, and return these events."""
    begin = make_begin(router, history)
    inputs = [state.question, state.conversation, *state.settings]
    outputs = [state.conversation, state.turn, state.asked, state.question, state.notice]
    running: list[Any] = []
    started = [
        trigger(begin, inputs, outputs, concurrency_limit=8, **PRIVATE)
        for trigger in (ask_all.click, state.question.submit)
    ]
    for number, pane in enumerate(state.panes):
        own = _connect_pane(state, router, history, started, number)
        stop = pane.stop.click(None, cancels=own, **PRIVATE)
        stop.then(_make_stop(state, number), [state.turn, pane.status], pane.status, **PRIVATE)
        running += own
    state.count.change(
        lambda count: [_visible(number < int(count)) for number in range(MAX_PANES)],
        state.count,
        [pane.column for pane in state.panes],
        **PRIVATE,
    )
    return running


def _visible(visible: bool) -> dict[str, Any]:
    return {"__type__": "update", "visible": visible}


def _make_stop(state: State, number: int) -> Callable[[Any, Any], Any]:
    async def stop(turn: Any, status: Any) -> Any:
        return await stop_pane(state.stops, turn, number, status)

    return stop


def _connect_pane(
    state: State, router: Router, history: History, started: list[Any], number: int
) -> list[Any]:
    pane = state.panes[number]
    outputs = [pane.chat, pane.status, pane.response]
    inputs = [state.turn, state.asked, pane.model, pane.chat, state.remember, state.count, *state.settings]
    handler, again = (
        make_asker(router, history, state.stops, number, fresh=False),
        make_asker(router, history, state.stops, number, fresh=True),
    )
    events = [start.success(handler, inputs, outputs, concurrency_limit=8, **PRIVATE) for start in started]
    return [*events, pane.anew.click(again, inputs, outputs, concurrency_limit=8, **PRIVATE)]


def _connect_moves(
    state: State, history: History, running: list[Any], stop_all: Any, edit: Any, branch: Any, clear: Any
) -> None:
    """Connect what moves between conversations.

    What cancels answers is followed by what writes, which waits for their last pieces: else these would come after it.
    """
    boxes = [pane.chat for pane in state.panes]
    statuses = [pane.status for pane in state.panes]

    async def stop_panes(turn: Any, *lines: Any) -> list[Any]:
        return [await stop_pane(state.stops, turn, *row) for row in enumerate(lines)]

    stop = stop_all.click(None, cancels=running, **PRIVATE)
    stop.then(stop_panes, [state.turn, *statuses], statuses, **PRIVATE)
    lines = [*statuses, *(pane.response for pane in state.panes)]
    moved = [state.conversation, state.turn, state.asked, state.notice, *lines, *boxes]
    empty = [*[paragraph("Ready.")] * MAX_PANES, *[None] * MAX_PANES]

    async def clear_all(turn: Any) -> tuple[Any, ...]:
        await leave_turn(state.stops, turn)
        return None, None, "", paragraph("A new conversation."), *empty, *([[]] * MAX_PANES)

    def branch_here(conversation: Any, turn: Any) -> tuple[Any, ...]:
        if not conversation or not turn:
            raise shown("Ask something first: a branch begins at a turn.")
        with explained():
            new = history.branch(conversation, turn)
            last = history.load_conversation(new).turns[-1]
        notice = paragraph("A branch: what is asked now leaves the conversation before it as it is.")
        return new, last.id, notice

    async def edit_last(turn: Any, conversation: Any, *chats: Any) -> tuple[Any, ...]:
        if not conversation:
            raise shown("There is no question to edit yet.")
        await leave_turn(state.stops, turn)
        with explained():
            turns = history.load_conversation(conversation).turns
            new = history.branch(conversation, turns[-2].id) if len(turns) > 1 else None
        rows = [chat_turns(_without_last(plain_turns(chat))) for chat in chats]
        return (
            new,
            None,
            "",
            paragraph("Edit the question and ask again; the old one stays in the history."),
            *empty,
            *rows,
            turns[-1].prompt,
        )

    clear.click(None, cancels=running, **PRIVATE).then(clear_all, state.turn, moved, **PRIVATE)
    place = [state.conversation, state.turn]
    branch.click(branch_here, place, [*place, state.notice], **PRIVATE)
    edited = edit.click(None, cancels=running, **PRIVATE)
    edited.then(edit_last, [state.turn, state.conversation, *boxes], [*moved, state.question], **PRIVATE)


def _without_last(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    asked = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    return turns[: asked[-1]] if asked else turns
