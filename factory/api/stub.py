"""Stands in for an endpoint where no key is set, so that panes and clients can be tried; it says that it is a stub."""

from collections.abc import Iterator
from typing import Any

WORDS_SHOWN = 30
STUB_TEXT = "This is a stub, not a model: no key for an endpoint is set. It was asked: {question}"


def stub_text(body: dict[str, Any]) -> str:
    """Return the stub's answer, which repeats the start of what it was asked."""
    turns = body.get("messages") or [{"content": body.get("prompt", "")}]
    words = str(turns[-1].get("content", "")).split()
    return STUB_TEXT.format(question=" ".join(words[:WORDS_SHOWN]))


def stub_answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return the stub's answer as a whole, in the shape of the route that the body is for."""
    text = stub_text(body)
    said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
    choice = {"index": 0, "finish_reason": "stop"} | said
    return _head(body) | {"choices": [choice], "usage": _usage(body)}


def stub_chunks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the stub's answer word by word, then the usage."""
    head = _head(body, ".chunk")
    for number, word in enumerate(stub_text(body).split(" ")):
        role = {"role": "assistant"} if number == 0 else {}
        yield head | {"choices": [_piece(body, word if number == 0 else f" {word}", role)]}
    yield head | {"choices": [_piece(body, "", {}) | {"finish_reason": "stop"}]}
    yield head | {"choices": [], "usage": _usage(body)}


def _piece(body: dict[str, Any], text: str, role: dict[str, str]) -> dict[str, Any]:
    said = {"text": text} if "prompt" in body else {"delta": {"content": text} | role}
    return {"index": 0, "finish_reason": None} | said


def _head(body: dict[str, Any], part: str = "") -> dict[str, Any]:
    kind = "text_completion" if "prompt" in body else f"chat.completion{part}"
    return {"id": "stub", "object": kind, "created": 0, "model": "stub-endpoint"}


def _usage(body: dict[str, Any]) -> dict[str, int]:
    """Return zero tokens: nothing was computed."""
    return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
