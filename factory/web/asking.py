"""One pane's question to one model: the answer as it grows, and what is known of it at the end. Knows no page."""

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from factory.api import chat, schema
from factory.api.errors import ApiError
from factory.api.models import ServedModel, describe
from factory.api.router import Attempt, Router
from factory.history.rows import Answer

Turns = Sequence[dict[str, str]]
NO_ANSWER = "(no answer)"
NOT_SETTINGS = ("messages", "cache_prompt")  # the latter tells an engine what to keep and changes no answer


@dataclass(frozen=True)
class Settings:
    """The sampler all panes share. `temperature` 0 is greedy; a seed only matters above it."""

    system: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 128
    seed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings without the system text, as a request names them."""
        names = ("temperature", "top_p", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class Progress:
    """An answer that is being given; `text` is all of it so far, `body` what was sent for it."""

    pane: int
    meant: ServedModel
    body: dict[str, Any] = field(default_factory=dict)
    response_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    text: str = ""
    attempt: Attempt | None = None
    started: float = field(default_factory=time.perf_counter)
    ttft_s: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def model(self) -> ServedModel:
        """Who answers: the one that was asked, or what stands in for it."""
        return self.attempt.model if self.attempt else self.meant

    def take(self, attempt: Attempt, chunk: dict[str, Any]) -> None:
        """Add a chunk."""
        self.attempt = attempt
        self.seconds = time.perf_counter() - self.started
        for choice in chunk.get("choices") or []:
            piece = (choice.get("delta") or {}).get("content") or ""
            if piece and self.ttft_s is None:
                self.ttft_s = self.seconds
            self.text += piece
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self.usage = chunk.get("usage") or self.usage
        self.timings = chunk.get("timings") or self.timings

    def tokens_per_s(self) -> float | None:
        """Return the speed of writing, without the wait for the first token; None when nobody knows."""
        if rate := self.timings.get("predicted_per_second"):
            return round(float(rate), 1)
        written = self.usage.get("completion_tokens")
        if not written or self.ttft_s is None or self.seconds <= self.ttft_s:
            return None
        return round(written / (self.seconds - self.ttft_s), 1)

    def answer(self) -> Answer:
        """Return the answer as the history keeps it."""
        model = self.model
        return Answer(
            response_id=self.response_id,
            pane=self.pane,
            model=model.id,
            text=self.text.strip(),
            identity={"model": model.id, "where": chat.where(model), **model.provenance},
            finish_reason=self.finish_reason,
            ttft_s=None if self.ttft_s is None else round(self.ttft_s, 3),
            tokens_per_s=self.tokens_per_s(),
            prompt_tokens=self.usage.get("prompt_tokens"),
            completion_tokens=self.usage.get("completion_tokens"),
            cost=None if model.endpoint and not model.endpoint.is_on_this_machine else 0.0,
            error=self.error,
            instead_of=self.attempt.instead_of if self.attempt else "",
            settings={name: value for name, value in self.body.items() if name not in NOT_SETTINGS},
            sent=tuple(self.body.get("messages", ())),
        )


async def ask(
    router: Router, model_id: str, turns: Turns, settings: Settings, pane: int
) -> AsyncGenerator[Progress, None]:
    """Yield one progress again and again as it grows; a failure to answer is its `error`.

    Leaving early stops the engine. `finish_reason` is then None.

    Raises:
        UnknownModelError: no model of that id is served.
    """
    model = router.find(model_id)
    progress = Progress(pane, model)
    try:
        progress.body = chat.chat_body(model, _request(model, turns, settings))
        async with aclosing(router.stream(model, "chat/completions", progress.body)) as chunks:
            async for attempt, chunk in chunks:
                progress.take(attempt, chunk)
                yield progress
    except ApiError as error:
        progress.error = str(error)
    progress.seconds = time.perf_counter() - progress.started
    yield progress


def _request(model: ServedModel, turns: Turns, settings: Settings) -> schema.ChatRequest:
    """Return a checked request: what comes from a browser is checked as what comes over the API."""
    system = [{"role": "system", "content": settings.system}] if settings.system else []
    request, _ = schema.read(
        schema.ChatRequest, {"model": model.id, "messages": [*system, *turns], **settings.as_dict()}
    )
    return request


def stats(answer: Answer) -> str:
    """Return what is measured of an answer, in one line; what nobody knows reads unknown."""
    wait = "unknown" if answer.ttft_s is None else f"{answer.ttft_s:.2f} s"
    speed = "unknown" if answer.tokens_per_s is None else f"{answer.tokens_per_s:.0f} tokens/s"
    read, written = answer.prompt_tokens, answer.completion_tokens
    tokens = "tokens unknown" if read is None or written is None else f"{read} read + {written} written"
    cost = "cost unknown" if answer.cost is None else "no cost (local)"
    return f"first token {wait} · {speed} · {tokens} · {cost}"


def identity_line(answer: Answer) -> str:
    """Return who answered, with a visible mark where it is not who was asked."""
    stand_in = f"Stand-in for {answer.instead_of}: " if answer.instead_of else ""
    return f"{stand_in}{answer.model} · {describe(answer.identity)}"


def drawn(answer: Answer) -> str:
    """Return how an answer was drawn, or nothing where that is not known."""
    temperature = answer.settings.get("temperature")
    if temperature is None:
        return ""
    return (
        "greedy" if temperature == 0 else f"temperature {temperature:g}, seed {answer.settings.get('seed')}"
    )
