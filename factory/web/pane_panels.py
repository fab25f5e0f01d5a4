"""What stands folded below the panes: feedback, similar text and prompts, history and export. Asks no model."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from factory.api.models import ServedModel
from factory.api.router import Router
from factory.history.history import History
from factory.history.rows import Answer, Conversation, Exchange
from factory.web import prompts, transcripts
from factory.web.markup import Table, paragraph, to_html
from factory.web.panes import (
    LONGEST_QUESTION,
    MAX_PANES,
    PRIVATE,
    State,
    answer_turns,
    chat_turns,
    explained,
    leave_turn,
    shown,
)
from factory.web.similar import LABEL, open_similar

TAGS = [("Wrong fact", "wrong_fact"), ("Made up", "hallucinated"), ("Style", "style"), ("Refused", "refused")]
BYTES = ("kind", "sha256", "adapter_sha256", "endpoint")  # what tells one model from another
EXPORTS: dict[str, Callable[[list[Conversation]], str]] = {
    "jsonl": transcripts.to_jsonl,
    "md": transcripts.to_markdown,
    "csv": transcripts.to_csv,
}


def build_feedback(gr: Any, state: State, history: History) -> None:
    """Lay out and connect the rating and the correction of an answer."""
    with gr.Accordion("Rate or correct an answer", open=False):
        gr.Markdown(
            "A corrected answer becomes a training row with `factory learn-from-feedback RECIPE`; questions that are "
            "held out for measuring are refused there."
        )
        pane = gr.Radio([1, 2, 3, 4], value=1, label="Answer of pane")
        thumb = gr.Radio([("Good", "up"), ("Bad", "down")], label="Rating")
        tags = gr.CheckboxGroup(TAGS, label="What is wrong")
        gold = gr.Textbox(label="The right answer", lines=2, max_length=LONGEST_QUESTION, elem_id="gold")
        save = gr.Button("Save feedback", elem_id="save-feedback")
        saved = gr.HTML(paragraph(""), elem_id="feedback-status")

    def keep(number: Any, thumb: Any, tags: Any, gold: Any, *responses: Any) -> tuple[Any, ...]:
        found = _exchange(history, number, responses)
        with explained():
            history.add_feedback(found.answer.response_id, thumb, tags or (), str(gold or ""))
        return paragraph("Saved."), ""

    responses = [one.response for one in state.panes]
    save.click(keep, [pane, thumb, tags, gold, *responses], [saved, gold], **PRIVATE)


def build_sources(gr: Any, state: State, router: Router, history: History) -> None:
    """Lay out and connect what shows texts similar to an answer, and the prompt as the model reads it."""
    with gr.Accordion("Where does an answer come from? What does the model read?", open=False):
        pane = gr.Radio([1, 2, 3, 4], value=1, label="Of pane")
        with gr.Row():
            nearest = gr.Button("Show similar training rows and passages")
            prompt = gr.Button("Show the rendered prompt")
        shown = gr.HTML(paragraph(""), elem_id="sources")
        text = gr.Textbox(label="Rendered prompt", lines=6, interactive=False, visible=False)

    def show_similar(number: Any, *responses: Any) -> str:
        found = _exchange(history, number, responses)
        with explained():
            return similar_html(router, found)

    def show_prompt(number: Any, *responses: Any) -> Any:
        answer = _exchange(history, number, responses).answer
        return gr.Textbox(value=prompts.rendered(who_answered(router, answer), answer.sent), visible=True)

    responses = [one.response for one in state.panes]
    nearest.click(show_similar, [pane, *responses], shown, **PRIVATE)
    prompt.click(show_prompt, [pane, *responses], text, **PRIVATE)


def _exchange(history: History, number: Any, responses: Sequence[Any]) -> Exchange:
    """Return the last answer of a pane, by the pane's number from 1."""
    response = responses[int(number) - 1]
    found = history.find_answer(str(response)) if response else None
    if found is None:
        raise shown(f"Pane {int(number)} has no finished answer yet.")
    return found


def who_answered(router: Router, answer: Answer) -> ServedModel | None:
    """Return the model that gave an answer, unless what is served under its id are other bytes by now."""
    model = router.catalog.models.get(answer.model)
    if model is None:
        return None
    same = all(model.provenance.get(name) == answer.identity.get(name) for name in BYTES)
    return model if same else None


def similar_html(router: Router, exchange: Exchange) -> str:
    """Return the training rows and passages nearest to a question and its answer, as HTML with a status before.

    They are those of the model that answered, whichever is chosen now.
    """
    model = who_answered(router, exchange.answer)
    if model is None:
        return paragraph(
            f"There is nothing to look in: {exchange.answer.model}, which answered, is not served any more."
        )
    if model.bundle is None:
        return paragraph(f"There is nothing to look in: {model.id}, which answered, was not trained here.")
    texts = open_similar(model.bundle)
    question, answer = exchange.question, exchange.answer.text
    found = [*texts.rows(question, answer), *texts.passages(question, answer)]
    if not found:
        return paragraph("Nothing similar was found, or the run's folder is gone.")
    rows = [[one.kind, one.source, one.heading, one.text, f"{one.score:.1f}"] for one in found]
    told = f"Similar texts found in what {model.id} was trained on: {len(rows)}."
    table = Table(LABEL, ("What", "Document", "Heading", "Text", "Likeness"), rows)
    return paragraph(told) + to_html(table)


def conversation_choices(gr: Any, history: History) -> Any:
    """Return the list of conversations, newest first, as a choice."""
    return gr.Radio(
        choices=[(_label(row.title, row.num_turns), row.id) for row in history.list_conversations()[:50]]
    )


def _label(title: str, num_turns: int) -> str:
    return f"{title or 'no question yet'} ({num_turns})"


def build_history(gr: Any, state: State, history: History, router: Router) -> Any:
    """Lay out and connect the conversations kept, and their export; return the list."""
    with gr.Accordion("History", open=False, elem_id="history") as fold:
        listing = gr.Radio([], label="Conversations, newest first; the number counts questions")
        with gr.Row():
            renew = gr.Button("List conversations")
            show = gr.Button("Open")
            delete = gr.Button("Delete")
        with gr.Row():
            kind = gr.Radio(list(EXPORTS), value="jsonl", label="Export as")
            export = gr.Button("Export the chosen conversation")
        file = gr.File(label="Exported file", visible=False, interactive=False)
    chats, models = [pane.chat for pane in state.panes], [pane.model for pane in state.panes]

    async def open_one(chosen: Any, turn: Any) -> tuple[Any, ...]:
        with explained():
            found = history.load_conversation(str(chosen or ""))
        await leave_turn(state.stops, turn)
        shown, used = pane_chats(found), pane_models(found, router)
        last = found.turns[-1] if found.turns else None
        count = max([number + 1 for number, chat in enumerate(shown) if chat] or [2])
        return (
            found.id,
            last.id if last else None,
            last.prompt if last else "",
            paragraph("Opened."),
            *map(chat_turns, shown),
            *(gr.update() if name is None else name for name in used),
            *kept_lines(found),
            max(2, count),
        )

    def delete_one(chosen: Any) -> Any:
        with explained():
            history.delete(str(chosen or ""))
        return conversation_choices(gr, history)

    def export_one(chosen: Any, kind: Any) -> Any:
        with explained():
            text = EXPORTS[str(kind)]([history.load_conversation(str(chosen or ""))])
        path = Path(tempfile.mkdtemp(prefix="conversation-")) / f"conversation.{kind}"
        path.write_text(text, encoding="utf-8", newline="")
        return gr.File(value=str(path), visible=True)

    lines = [part for pane in state.panes for part in (pane.status, pane.response)]
    outputs = [
        state.conversation,
        state.turn,
        state.asked,
        state.notice,
        *chats,
        *models,
        *lines,
        state.count,
    ]
    fold.expand(lambda: conversation_choices(gr, history), outputs=listing, **PRIVATE)
    renew.click(lambda: conversation_choices(gr, history), outputs=listing, **PRIVATE)
    show.click(open_one, [listing, state.turn], outputs, **PRIVATE)
    delete.click(delete_one, [listing], listing, **PRIVATE)
    export.click(export_one, [listing, kind], file, **PRIVATE)
    return listing


def pane_chats(conversation: Conversation) -> list[list[dict[str, str]]]:
    """Return each pane's turns of a conversation; a pane that never answered has none."""
    chats: list[list[dict[str, str]]] = [[] for _ in range(MAX_PANES)]
    for turn in conversation.turns:
        for pane, answer in turn.last_answers().items():
            if 0 <= pane < MAX_PANES:
                chats[pane] += [{"role": "user", "content": turn.prompt}, *answer_turns(answer)]
    return chats


def kept_lines(conversation: Conversation) -> list[str | None]:
    """Return, for each pane, how its answer to the last turn ended, and the answer's response id."""
    answers = conversation.turns[-1].last_answers() if conversation.turns else {}
    lines: list[str | None] = []
    for pane in range(MAX_PANES):
        answer = answers.get(pane)
        if answer is None:
            lines += [paragraph("Ready."), None]
            continue
        end = f"Failed: {answer.error}" if answer.error else "From the history."
        lines += [paragraph(end), answer.response_id]
    return lines


def pane_models(conversation: Conversation, router: Router) -> list[str | None]:
    """Return the model each pane answered with last, where it is still served."""
    used: list[str | None] = [None] * MAX_PANES
    for turn in conversation.turns:
        for pane, answer in turn.last_answers().items():
            if 0 <= pane < MAX_PANES and answer.model in router.catalog.models:
                used[pane] = answer.model
    return used
