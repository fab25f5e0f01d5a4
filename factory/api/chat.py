"""From a request to what an engine reads, and from an engine's chunks to what a client gets. Sends nothing."""

import json
import re
from typing import Any

from factory.api.errors import RequestError
from factory.api.models import ServedModel
from factory.api.router import Attempt
from factory.api.schema import ChatRequest, CompletionRequest

KEPT = ("id", "object", "created", "choices", "usage", "timings")
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")


def chat_body(model: ServedModel, request: ChatRequest) -> dict[str, Any]:
    """Return the body an engine gets: the model's own system text and sampling where the request names none.

    Raises:
        RequestError: a message or tool holds one of the model's control tokens, or a tool must be called and the
            model has no place for it.
    """
    for number, message in enumerate(request.messages):
        refuse_control_tokens(model, message.text, f"messages.{number}.content")
        calls = [message.tool_calls, message.tool_call_id]
        refuse_control_tokens(model, json.dumps(calls, ensure_ascii=False), f"messages.{number}.tool_calls")
    refuse_control_tokens(model, json.dumps(request.tools, ensure_ascii=False), "tools")
    messages = [message.for_engine() for message in request.messages]
    if model.system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": model.system})
    given = request.settings()
    if request.tools and not _has_place_for_tools(model, request):
        given = {name: value for name, value in given.items() if name not in TOOL_FIELDS}
    return {"messages": messages} | _settings(model, given)


def _has_place_for_tools(model: ServedModel, request: ChatRequest) -> bool:
    """Tell whether the model's chat template has a place for tools; an endpoint's is not known, and taken to have.

    Raises:
        RequestError: it has none, and a tool must be called.
    """
    if model.vocabulary is None or re.search(r"\btools\b", model.vocabulary.template):
        return True
    if request.tool_choice not in (None, "auto", "none"):
        raise RequestError(
            f"{model.id} cannot call tools, its chat template has no place for them: leave out `tool_choice`, or "
            "serve a bundle made from a base that knows tools",
            param="tool_choice",
        )
    return False


def completion_body(model: ServedModel, request: CompletionRequest) -> dict[str, Any]:
    """Return the body an engine gets for a raw prompt or a gap.

    Raises:
        RequestError: a gap is to be filled and no tokens for that are known.
    """
    if request.suffix is None:
        return {"prompt": request.text} | _settings(model, request.settings())
    fim = model.vocabulary.fim if model.vocabulary else None
    if fim is None:
        raise RequestError(f"{model.id} cannot fill gaps, {_why_no_gaps(model)}", param="suffix")
    for name, text in (("prompt", request.text), ("suffix", request.suffix)):
        refuse_control_tokens(model, text, name)
    before, after, gap = fim
    prompt = f"{before}{request.text}{after}{request.suffix}{gap}"
    return {"prompt": prompt} | _settings(model, request.settings())


def _why_no_gaps(model: ServedModel) -> str:
    if model.endpoint:
        return "the tokens that mark one there are not known here: leave out `suffix`, or ask the endpoint itself"
    if model.kind == "stub":
        return "it is a stub and not a model: leave out `suffix`"
    return "its vocabulary has no tokens for it: leave out `suffix`, or serve a bundle made from a code model"


def refuse_control_tokens(model: ServedModel, text: str, param: str) -> None:
    """Refuse a text that would open or close a turn by itself.

    Raises:
        RequestError: it holds a control token of the model.
    """
    for token in sorted(model.vocabulary.control if model.vocabulary else ()):
        if token in text:
            raise RequestError(
                f"{param} holds {token!r}, which the model reads as a mark of its own and not as text: write it "
                "with a space inside",
                param=param,
            )


def _settings(model: ServedModel, given: dict[str, Any]) -> dict[str, Any]:
    """Return what was asked for over what the model is served with."""
    own: dict[str, Any] = {
        "temperature": model.sampling.temperature,
        "max_tokens": model.sampling.num_predict,
    }
    if "temperature" not in given:
        own |= {"top_k": 1}  # greedy, as the model was measured
    stop = given.get("stop") or []
    stops = [stop] if isinstance(stop, str) else list(stop)
    extra = [mark for mark in model.sampling.stop if mark not in stops]
    return own | given | {"stop": stops + extra, "cache_prompt": True}


def present(attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer or chunk under the name of the model that gave it, with nothing else of the engine's."""
    kept = {name: body[name] for name in KEPT if name in body}
    return kept | {"model": attempt.model.id, "system_fingerprint": attempt.model.fingerprint}


def answer_headers(attempt: Attempt, ignored: list[str]) -> dict[str, str]:
    """Return the headers that say who answered, where, and which fields nobody read."""
    headers = {"x-answered-by": attempt.model.id, "x-answered-where": where(attempt.model)}
    if attempt.instead_of:
        headers["x-instead-of"] = attempt.instead_of
    if ignored:
        names = ",".join(ignored[:32]).encode("ascii", "replace").decode()
        headers["x-ignored-params"] = "".join(char for char in names if char.isprintable())[:400]
    return headers


def where(model: ServedModel) -> str:
    """Return what a model runs in: an engine of this server, `local`, or another server, `endpoint`."""
    return "endpoint" if model.endpoint else "local"
