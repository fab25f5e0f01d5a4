"""The Blind test tab: two answers without names, a vote, then the names. Lays out and connects; `arena` counts.

The server draws the order and keeps it: until the vote the browser has two texts and nothing that tells them apart.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from factory.api.router import Router
from factory.history.history import History
from factory.history.rows import Answer
from factory.web.arena import MIN_VOTES, duels, mask_identity
from factory.web.asking import NO_ANSWER, Progress, Settings, ask
from factory.web.markup import Table, paragraph, to_html
from factory.web.panes import LONGEST_QUESTION, PRIVATE, explained, first_choices, model_ids, shown

VOTES = [("A is better", "a"), ("B is better", "b"), ("Both are good", "tie"), ("Both are bad", "both_bad")]
SIDES = ("A", "B")


@dataclass(frozen=True)
class Round:
    """One blind question: the answers as they were shown, A first."""

    answers: tuple[Answer, Answer]


def build_blind_tab(gr: Any, router: Router, history: History) -> list[Any]:
    """Put the tab's components into the open container and connect them; return the choices of models."""
    ids, first = model_ids(router), first_choices(router)
    gr.Markdown(
        "Two models answer without their names, in an order drawn for each question. Vote, then see who was who. "
        f"A win rate is shown from {MIN_VOTES} deciding votes on."
    )
    with gr.Row():
        one = gr.Radio(ids, value=first[0], label="One model", elem_id="blind-one")
        other = gr.Radio(ids, value=first[1], label="The other model", elem_id="blind-other")
    question = gr.Textbox(label="Question", lines=1, max_length=LONGEST_QUESTION, elem_id="blind-question")
    with gr.Row():
        start = gr.Button("Ask both, blind", variant="primary", elem_id="blind-ask")
        stop = gr.Button("Stop both")
    with gr.Row():
        texts = [gr.Textbox(label=f"Answer {side}", lines=6, interactive=False) for side in SIDES]
    vote = gr.Radio(VOTES, label="Your vote", elem_id="blind-vote")
    cast = gr.Button("Vote and reveal", elem_id="blind-cast")
    status = gr.HTML(paragraph("Ready."), elem_id="blind-status")
    table = gr.HTML(standings(history))
    state = gr.State(None)
    running = [
        trigger(
            _make_round(router, history),
            [question, one, other],
            [*texts, state, status, vote],
            concurrency_limit=8,
            **PRIVATE,
        )
        for trigger in (start.click, question.submit)
    ]
    stop.click(None, cancels=running, **PRIVATE).then(
        lambda: paragraph("Stopped: ask again for a vote."), outputs=status, **PRIVATE
    )
    cast.click(_make_vote(history), [state, vote], [state, status, table], **PRIVATE)
    return [one, other]


def _make_round(router: Router, history: History) -> Callable[..., AsyncIterator[tuple[Any, ...]]]:
    async def play(question: Any, one: Any, other: Any) -> AsyncIterator[tuple[Any, ...]]:
        text = str(question or "").strip()[:LONGEST_QUESTION]
        if not text or not one or not other or one == other:
            raise shown("Type a question and choose two different models.")
        with explained():
            pair = [router.find(str(one)), router.find(str(other))]
            if secrets.randbelow(2):
                pair.reverse()
            turn = history.add_turn(history.add_conversation(), text)
        names = [name for model in router.catalog.models.values() for name in (model.id, model.base) if name]
        texts, answers = ["", ""], []
        # Shown once both are whole: how fast words come, or half a name that is not yet masked, would tell who writes.
        yield "", "", None, paragraph("Both answer, one after the other …"), None
        for number, model in enumerate(pair):
            progress: Progress | None = None
            async with aclosing(
                ask(router, model.id, [{"role": "user", "content": text}], Settings(), number)
            ) as steps:
                async for step in steps:
                    progress = step
            assert progress is not None, "asking yields at least once"
            answers.append(progress.answer())
            masked = mask_identity(progress.text.strip(), names) or NO_ANSWER
            texts[number] = f"(failed: {progress.error})" if progress.error else masked
            with explained():
                history.add_answer(turn, answers[-1])
        failed = any(answer.error for answer in answers)
        end = "One answer failed: no vote on this question." if failed else "Both have answered: vote."
        yield *texts, None if failed else Round((answers[0], answers[1])), paragraph(end), None

    return play


def _make_vote(history: History) -> Callable[[Any, Any], tuple[Any, ...]]:
    def cast(played: Any, vote: Any) -> tuple[Any, ...]:
        if not isinstance(played, Round):
            raise shown("Ask both first: there are no two answers to vote on.")
        if not vote:
            raise shown("Choose one of the four votes first.")
        a, b = played.answers
        with explained():
            history.add_vote(a.response_id, b.response_id, vote)
        return None, paragraph(f"Thank you. A was {a.model}, B was {b.model}."), standings(history)

    return cast


def standings(history: History) -> str:
    """Return what the votes say of each pair of models, as HTML."""
    found = duels(history.votes())
    if not found:
        return paragraph("No votes yet.")
    rows = [
        [
            f"{duel.first} and {duel.second}",
            str(duel.wins),
            str(duel.losses),
            str(duel.ties + duel.both_bad),
            duel.describe(),
        ]
        for duel in found
    ]
    return to_html(
        Table("Votes so far", ("Pair", "First won", "Second won", "Neither", "What it says"), rows)
    )
