"""The handlers that ask: one turn begun for all panes, and each pane's answer as it grows. Lays out nothing."""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from factory.api.router import Router
from factory.errors import FactoryError
from factory.history.history import History
from factory.web.asking import Progress, Settings, ask, identity_line
from factory.web.markup import paragraph
from factory.web.panes import (
    LONGEST_QUESTION,
    MAX_SEED,
    Stops,
    answer_turns,
    chat_turns,
    explained,
    plain_turns,
    read_settings,
    said,
    shown,
    spoken,
)

SHOW_EVERY_S = 0.3  # four panes at a hundred words a second each would keep the page too busy for its buttons
FRESH_TEMPERATURE = 0.7  # greedy answers do not depend on the seed, so asking anew needs some chance


def make_begin(router: Router, history: History) -> Callable[..., tuple[Any, ...]]:
    """Return the handler that opens a turn in the history before the panes ask."""

    def begin(question: Any, conversation: Any, *fields: Any) -> tuple[Any, ...]:
        text = str(question or "").strip()[:LONGEST_QUESTION]
        if not text:
            raise shown("Type a question first.")
        if not router.catalog.models:
            raise shown("No model is served: make a bundle in the Train tab, or with `factory run`.")
        settings = read_settings(*fields)
        with explained():
            conversation = conversation or history.add_conversation()
            turn = history.add_turn(conversation, text, settings.system, settings.as_dict())
        return conversation, turn, text, "", paragraph("Asked: each pane says how far it is.")

    return begin


def make_asker(
    router: Router, history: History, stops: Stops, number: int, *, fresh: bool
) -> Callable[..., AsyncIterator[tuple[Any, ...]]]:
    """Return a pane's handler; with `fresh` it asks the last question again, with another seed.

    Once the pane is stopped at the turn, nothing more is shown.
    """

    async def asker(
        turn: Any, asked: Any, model: Any, shown: Any, remember: Any, count: Any, *fields: Any
    ) -> AsyncIterator[tuple[Any, ...]]:
        if number >= int(count) or not asked or not turn:
            return
        before = plain_turns(shown)
        if fresh:
            before = before[: max((i for i, row in enumerate(before) if row["role"] == "user"), default=0)]
        settings = read_settings(*fields)
        if fresh:
            drawn = secrets.randbelow(MAX_SEED)
            settings = replace(settings, seed=drawn, temperature=max(settings.temperature, FRESH_TEMPERATURE))
        rows = [*before, {"role": "user", "content": str(asked)}]
        answering = _answering(
            router, history, str(turn), str(model or ""), rows, bool(remember), settings, number
        )
        with stops.showing(str(turn), number):
            async with aclosing(answering) as views:
                async for view in views:
                    if stops.has(str(turn), number):
                        return
                    yield view

    return asker


async def _answering(
    router: Router,
    history: History,
    turn: str,
    model: str,
    rows: list[dict[str, str]],
    remember: bool,
    settings: Settings,
    number: int,
) -> AsyncGenerator[tuple[Any, ...], None]:
    """Yield what a pane shows while its model answers, and keep the answer, also one that is stopped."""
    with explained():
        router.find(model)
    progress: Progress | None = None
    last_shown = 0.0
    yield chat_turns(rows), paragraph("Waiting for the model …"), None
    turns = spoken(rows) if remember else rows[-1:]
    try:
        async with aclosing(ask(router, model, turns, settings, number)) as steps:
            async for progress in steps:
                if time.monotonic() - last_shown < SHOW_EVERY_S:
                    continue
                last_shown = time.monotonic()
                yield _growing(progress, rows), paragraph("Answering …"), progress.response_id
    finally:
        if progress is not None:
            answer = progress.answer()
            with contextlib.suppress(FactoryError):  # the conversation may be gone meanwhile
                history.add_answer(turn, answer)
    if progress is not None:
        end = f"Failed: {progress.error}" if progress.error else f"Done in {progress.seconds:.1f} s."
        yield chat_turns([*rows, *answer_turns(answer)]), paragraph(end), answer.response_id


def _growing(progress: Progress, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    answer = progress.answer()
    return chat_turns([*rows, *said(answer.text, identity_line(answer))] if answer.text else rows)
