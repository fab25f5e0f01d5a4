"""What a request to the fallback engine asks for, and the shapes in which it answers. Runs no model."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_cpp.llama_grammar import JSON_GBNF, LlamaGrammar

from factory.errors import BackendError

MAX_GRAMMAR_CHARACTERS = 200_000
NEEDS_SERVER = "the package xllamacpp: pip install 'adapter-factory[serve]'"


class RefusedError(BackendError):
    """The request cannot be answered as it is; `body` says so in the shape of llama.cpp's server."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **more: Any) -> None:
        """Keep what is said beside the message."""
        super().__init__(message)
        self.body = {"error": {"code": 400, "message": message, "type": kind} | more}


@dataclass(frozen=True)
class Asked:
    """A request with its prompt in tokens; `tool` names the function whose arguments are the answer, if one must be."""

    prompt: list[int]
    options: dict[str, Any]
    scales: list[float]
    is_chat: bool
    tool: str | None = None
    grammar: str | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Piece:
    """Some text of an answer; the last piece has the reason why it ends, and the tokens used."""

    text: str
    reason: str | None = None
    usage: dict[str, int] | None = None


def forced_tool(body: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the parameters of the tool that must be called, if one must.

    Raises:
        RefusedError: the choice is the model's.
    """
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        wanted = (choice.get("function") or {}).get("name")
        tools = [tool for tool in tools if tool["function"]["name"] == wanted]
    if choice in (None, "auto") or len(tools) != 1:
        raise RefusedError(
            f"a choice between tools, or between a tool and a text, needs {NEEDS_SERVER}; or name one tool of "
            "`tools` in `tool_choice`"
        )
    function = tools[0]["function"]
    return function["name"], function.get("parameters") or {}


def grammar_of(body: dict[str, Any]) -> str | None:
    """Return the grammar that the answer must follow, if it must follow one.

    Raises:
        RefusedError: a schema cannot be written as a grammar.
    """
    form = body.get("response_format") or {}
    schema = form.get("json_schema", {}).get("schema") if form.get("type") == "json_schema" else None
    if form.get("type") == "json_object":
        schema = form.get("schema")
        if schema is None:
            return JSON_GBNF
    if tool := forced_tool(body):
        schema = tool[1]
    return None if schema is None else written_as_grammar(schema)


def written_as_grammar(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema as a grammar in GBNF.

    Raises:
        RefusedError: it cannot be written as one, or only as too long a one.
    """
    try:
        grammar = LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)._grammar
    except Exception as error:  # a converter of someone else's, which says with anything what it cannot read
        reason = str(error)[:200] or type(error).__name__
        raise RefusedError(f"the JSON schema cannot be written as a grammar: {reason}") from error
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        raise RefusedError("the JSON schema makes too long a grammar: allow fewer repetitions")
    return str(grammar)


def whole(asked: Asked, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return an answer in one piece."""
    text, last = "".join(piece.text for piece in pieces), pieces[-1]
    choice: dict[str, Any] = {"index": 0, "finish_reason": _reason(asked, last)}
    if not asked.is_chat:
        choice["text"] = text
    elif asked.tool is None:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        call = _call(asked) | {"function": {"name": asked.tool, "arguments": text}}
        choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
    return _head(asked) | {"choices": [choice], "usage": last.usage}


def chunk(asked: Asked, piece: Piece, *, is_first: bool) -> dict[str, Any]:
    """Return one chunk of a stream."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": _reason(asked, piece)}
    if not asked.is_chat:
        return _head(asked, ".chunk") | {"choices": [choice | {"text": piece.text}]}
    delta: dict[str, Any] = {"role": "assistant", "content": None} if is_first else {}
    if asked.tool is None:
        delta |= {"content": piece.text} if piece.text else {}
    elif piece.text or is_first:
        head = _call(asked) if is_first else {}
        function = ({"name": asked.tool} if is_first else {}) | {"arguments": piece.text}
        delta["tool_calls"] = [{"index": 0} | head | {"function": function}]
    return _head(asked, ".chunk") | {"choices": [choice | {"delta": delta}]}


def usage_chunk(asked: Asked, usage: dict[str, int]) -> dict[str, Any]:
    """Return the chunk after the last one, for who asked for usage."""
    return _head(asked, ".chunk") | {"choices": [], "usage": usage}


def usage_of(num_prompt: int, num_drawn: int) -> dict[str, int]:
    """Return the tokens used."""
    total = num_prompt + num_drawn
    return {"prompt_tokens": num_prompt, "completion_tokens": num_drawn, "total_tokens": total}


def _head(asked: Asked, suffix: str = "") -> dict[str, Any]:
    name = f"chat.completion{suffix}" if asked.is_chat else "text_completion"
    return {"id": f"chatcmpl-{asked.id}", "object": name, "created": int(time.time())}


def _call(asked: Asked) -> dict[str, Any]:
    return {"id": f"call_{asked.id}", "type": "function"}


def _reason(asked: Asked, piece: Piece) -> str | None:
    return "tool_calls" if asked.tool and piece.reason == "stop" else piece.reason
