"""Conversations as files: JSON Lines in the messages format, Markdown, and CSV that no spreadsheet runs as formulas."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from factory.history.rows import Answer, Conversation, Turn
from factory.web.asking import identity_line

# What makes a spreadsheet take a cell for a formula, and what it may drop to look at the next character.
FORMULA_STARTS = ("=", "+", "-", "@")
DROPPED_STARTS = ("\t", "\r")
UNKNOWN = "unknown"
NUMBERS = ("ttft_s", "tokens_per_s", "prompt_tokens", "completion_tokens", "cost")
COLUMNS = (
    *("conversation", "created", "turn", "system", "prompt", "pane", "model", "instead_of", "response_id"),
    *("answer", "finish_reason", *NUMBERS, "error", "identity", "settings", "sent"),
)


def to_jsonl(conversations: Iterable[Conversation]) -> str:
    """Return a line for each conversation and pane: `messages` of its last answers, and their `provenance`.

    A turn that the pane did not answer is left out. A system message stands wherever the system text that the model
    got changes; what else it got with a question, earlier turns or none, is `sent` of the response.
    """
    rows = (row for conversation in conversations for row in _threads(conversation))
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _threads(conversation: Conversation) -> Iterator[dict[str, Any]]:
    panes = sorted({answer.pane for turn in conversation.turns for answer in turn.answers})
    for pane in panes:
        messages: list[dict[str, str]] = []
        sources, system = [], ""
        for turn, answer in _answered(conversation, pane):
            if _system(turn, answer) != system:
                system = _system(turn, answer)
                messages.append({"role": "system", "content": system})
            messages.append({"role": "user", "content": turn.prompt})
            messages.append({"role": "assistant", "content": answer.text})
            sources.append(_source(answer))
        if messages:
            provenance = {**_origin(conversation), "pane": pane, "responses": sources}
            yield {"messages": messages, "provenance": provenance}


def _answered(conversation: Conversation, pane: int) -> Iterator[tuple[Turn, Answer]]:
    for turn in conversation.turns:
        answer = turn.last_answers().get(pane)
        if answer and answer.text:
            yield turn, answer


def _system(turn: Turn, answer: Answer) -> str:
    """Return the system text that a model got; of an answer that does not say, the one that the page named."""
    return answer.system if answer.sent else turn.system


def _origin(conversation: Conversation) -> dict[str, Any]:
    return {
        "conversation": conversation.id,
        "created": _time(conversation.created),
        "parent": conversation.parent,
        "parent_turn": conversation.parent_turn,
    }


def _source(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in asdict(answer).items() if name not in {"text", "pane"}}


def to_markdown(conversations: Iterable[Conversation]) -> str:
    """Return conversations for reading: every text in a fence, so that no markup in it is rendered or fetched."""
    lines: list[str] = []
    for conversation in conversations:
        lines += [f"# Conversation of {_time(conversation.created)}", ""]
        for turn in conversation.turns:
            lines += [f"## Question {turn.number}", "", _fenced(turn.prompt), ""]
            if turn.system:
                lines += ["System text:", "", _fenced(turn.system), ""]
            for answer in turn.answers:
                lines += _answer_lines(turn, answer)
    return "\n".join(lines)


def _answer_lines(turn: Turn, answer: Answer) -> list[str]:
    lines = [f"### Pane {answer.pane}: {_inline(answer.model)}", "", _fenced(answer.text), ""]
    if (system := _system(turn, answer)) != turn.system:
        lines += ["System text of this answer:", "", _fenced(system) if system else "none", ""]
    return [*lines, _measures(answer), ""]


def _fenced(text: str) -> str:
    """Return a text in a fence longer than any run of backticks in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _inline(text: str) -> str:
    """Return a short text as a code span on one line; its backticks become apostrophes."""
    return "`" + (" ".join(text.replace("`", "'").split()) or "-") + "`"


def _measures(answer: Answer) -> str:
    shown = [
        _inline(identity_line(answer)),
        f"settings {_inline(_json(answer.settings) if answer.settings else UNKNOWN)}",
    ]
    earlier = sum(message.get("role") != "system" for message in answer.sent) - 1
    shown += [f"earlier messages sent along {earlier}"] if earlier > 0 else []
    shown += [f"{name} {_number(getattr(answer, name))}" for name in NUMBERS]
    shown += [f"finish_reason {_inline(answer.finish_reason or UNKNOWN)}"]
    shown += [f"error {_inline(answer.error)}"] if answer.error else []
    shown += [f"response {_inline(answer.response_id)}"]
    return " · ".join(shown)


def to_csv(conversations: Iterable[Conversation]) -> str:
    """Return a line for each answer, or for a turn without one; unknown numbers read `unknown`, never 0."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for conversation in conversations:
        for turn in conversation.turns:
            for answer in turn.answers or (None,):
                row = _cells(conversation, turn, answer)
                writer.writerow([guard_cell(row.get(name, "")) for name in COLUMNS])
    return file.getvalue()


def _cells(conversation: Conversation, turn: Turn, answer: Answer | None) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "conversation": conversation.id,
        "created": _time(turn.created),
        "turn": turn.number,
        "system": turn.system,
        "prompt": turn.prompt,
        "settings": _json(turn.settings),
    }
    if answer is not None:
        cells |= asdict(answer) | {name: _number(getattr(answer, name)) for name in NUMBERS}
        cells |= {"answer": answer.text, "system": _system(turn, answer)}
        cells |= {name: _json(getattr(answer, name)) for name in ("identity", "settings", "sent")}
        cells |= {name: cells[name] or "" for name in ("finish_reason", "error")}
    return cells


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def guard_cell(value: Any) -> Any:
    """Return a cell's value; a text that a spreadsheet could run gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    risky = value.startswith(DROPPED_STARTS) or value.lstrip().startswith(FORMULA_STARTS)
    return f"'{value}" if risky else value


def _number(value: float | None) -> float | str:
    return UNKNOWN if value is None else value


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
