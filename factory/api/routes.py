"""The HTTP side of the API: OpenAI's routes over a router. Decides nothing about who answers."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from anyio import CancelScope
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from factory.api import chat, schema
from factory.api.errors import ApiError, EngineError, NotOfferedError, RequestError, UnknownModelError
from factory.api.guard import RefusedError
from factory.api.models import ServedModel
from factory.api.router import Attempt, Route, Router
from factory.backends.embedder import MODEL_ID, Embedder, embedder_folder

logger = logging.getLogger(__name__)
BODY_TIMEOUT_S = 30.0
KEEPALIVE_S = 15.0
ENCODER_CARD = {
    "id": MODEL_ID,
    "object": "model",
    "created": 0,
    "owned_by": "adapter-factory",
    "kind": "embedding",
}
CLIENT_GONE = 499  # nginx's status for a client that left; nobody gets it, the metrics do
Chunks = AsyncGenerator[tuple[Attempt, dict[str, Any]], None]
Ready = asyncio.Queue[tuple[Attempt, dict[str, Any]] | Exception | None]
READ_AHEAD = 16  # chunks that wait for a client; the engine waits when there are more


def build_api(router: Router) -> FastAPI:
    """Return the application with the API's routes; it opens no port and has no guard yet.

    What else is to be closed when it ends goes on the `ExitStack` in `app.state.closing`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await router.close()
            await run_in_threadpool(app.state.closing.close)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.closing = contextlib.ExitStack()
    app.add_exception_handler(ApiError, _explain)
    app.add_exception_handler(HTTPException, _explain)
    handlers = _Handlers(router)
    for path, handler, method in (
        ("/v1/models", handlers.models, "GET"),
        ("/v1/models/{model:path}", handlers.model, "GET"),
        ("/v1/chat/completions", handlers.chat_completions, "POST"),
        ("/v1/completions", handlers.completions, "POST"),
        ("/v1/embeddings", handlers.embeddings, "POST"),
        ("/health", handlers.health, "GET"),
        ("/metrics", handlers.metrics, "GET"),
    ):
        app.add_route(path, handler, methods=[method])
    return app


class _Handlers:
    """One method a route."""

    def __init__(self, router: Router) -> None:
        self._router, self._embedder = router, Embedder()

    async def models(self, request: Request) -> Response:
        cards = [model.card() for model in self._router.catalog.models.values()]
        return JSONResponse({"object": "list", "data": cards + ([ENCODER_CARD] if embedder_folder() else [])})

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if name == MODEL_ID and embedder_folder():
            return JSONResponse(ENCODER_CARD)
        return JSONResponse(self._router.find(name).card())

    async def chat_completions(self, request: Request) -> Response:
        asked, ignored = schema.read(schema.ChatRequest, schema.parse_json(await _read_body(request)))
        model = self._router.find(asked.model)
        body = chat.chat_body(model, asked)
        if asked.tools and "tools" not in body:  # the model has no place for them
            ignored = sorted({*ignored, "tools"})
        job = _Job(self._router, request, "chat/completions", model, body, ignored)
        return await (job.stream(asked.wants_usage) if asked.stream else job.whole())

    async def completions(self, request: Request) -> Response:
        asked, ignored = schema.read(schema.CompletionRequest, schema.parse_json(await _read_body(request)))
        model = self._router.find(asked.model)
        job = _Job(self._router, request, "completions", model, chat.completion_body(model, asked), ignored)
        return await (job.stream(asked.wants_usage) if asked.stream else job.whole())

    async def embeddings(self, request: Request) -> Response:
        if embedder_folder() is None:
            raise NotOfferedError("Embeddings need an encoder: pip install 'adapter-factory[embeddings]'")
        asked, _ = schema.read(schema.EmbeddingRequest, schema.parse_json(await _read_body(request)))
        if asked.model.lower() != MODEL_ID:
            raise UnknownModelError(
                f"Model {asked.model!r} makes no embeddings: use {MODEL_ID}", param="model"
            )
        vectors, num_tokens = await run_in_threadpool(self._embedder.embed, asked.texts)
        data = [
            {"object": "embedding", "index": number, "embedding": asked.encoded(vector)}
            for number, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return JSONResponse({"object": "list", "model": MODEL_ID, "data": data, "usage": usage})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._router.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _explain(request: Request, error: Exception) -> Response:
    """Return any refusal in OpenAI's shape."""
    if isinstance(error, HTTPException):
        known: ApiError = RefusedError(
            error.status_code, f"{request.method} here: {error.detail}", "no_such_route"
        )
    else:
        assert isinstance(error, ApiError), "registered for these two"
        known = error
    return JSONResponse(known.body(), known.status)


async def _read_body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.body()
    except TimeoutError as error:
        raise RequestError(
            f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s: send it at once"
        ) from error


@dataclass(frozen=True)
class _Job:
    """One request on its way to an answer."""

    router: Router
    request: Request
    route: Route
    model: ServedModel
    body: dict[str, Any]
    ignored: list[str]

    async def whole(self) -> Response:
        """Answer in one piece; the engine stops when the client is gone."""
        started = time.perf_counter()
        with self.router.metrics.running.track_inprogress(), self._counted():
            work = self.router.answer(self.model, self.route, self.body)
            answer = await _unless_gone(self.request, work)
        self.router.metrics.first_token.labels(self.model.id).observe(time.perf_counter() - started)
        _count(self.router, answer.attempt, self.route, answer.body.get("usage"))
        headers = chat.answer_headers(answer.attempt, self.ignored)
        return JSONResponse(chat.present(answer.attempt, answer.body), headers=headers)

    async def stream(self, wants_usage: bool) -> Response:
        """Answer piece by piece; the first piece is waited for, so that an error before it has a status of its own."""
        started = time.perf_counter()
        chunks = self.router.stream(self.model, self.route, self.body)
        with self._counted():
            first = await _unless_gone(self.request, _next(chunks))
            if first is None:
                raise EngineError(f"{self.model.id} gave an empty answer: ask again")
        self.router.metrics.first_token.labels(self.model.id).observe(time.perf_counter() - started)
        events = _events(self.router, self.route, first, chunks, wants_usage)
        headers = chat.answer_headers(first[0], self.ignored) | {"cache-control": "no-store"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except ApiError as error:
            self.router.metrics.requests.labels(self.model.id, self.route, error.status).inc()
            raise


async def _next(chunks: Chunks) -> tuple[Attempt, dict[str, Any]] | None:
    return await anext(chunks, None)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Return what some work returns, and give it up when the client leaves."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RefusedError(CLIENT_GONE, "the client left", "client_gone")
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _events(
    router: Router, route: Route, first: tuple[Attempt, dict[str, Any]], rest: Chunks, wants_usage: bool
) -> AsyncIterator[str]:
    """Yield server-sent events; an error in the middle is an event of its own, and there is always an end mark.

    An event without text goes out with the one after it, as each piece sent costs both sides time.
    """
    usage, held = None, _event(chat.present(*first))
    with router.metrics.running.track_inprogress():
        async with aclosing(rest):
            try:
                if _has_text(first[1]):
                    yield held
                    held = ""
                async with aclosing(_alive(rest)) as chunks:  # it is asking `rest` when the client leaves
                    async for attempt, chunk in chunks:
                        if attempt is None:
                            yield f"{held}: keepalive\n\n"
                            held = ""
                            continue
                        usage = chunk.get("usage") or usage
                        if chunk.get("choices") or wants_usage:
                            held += _event(chat.present(attempt, chunk))
                        if _has_text(chunk):
                            yield held
                            held = ""
            except ApiError as error:
                router.metrics.requests.labels(first[0].model.id, route, error.status).inc()
                held += _event(error.body())
            except (GeneratorExit, asyncio.CancelledError):
                router.metrics.requests.labels(first[0].model.id, route, CLIENT_GONE).inc()
                raise
            else:
                _count(router, first[0], route, usage)
            yield f"{held}data: [DONE]\n\n"


def _has_text(chunk: dict[str, Any]) -> bool:
    """Tell whether a chunk holds some of the answer: all but the ones that open, end and count it do."""
    choices = [choice for choice in chunk.get("choices") or () if isinstance(choice, dict)]
    deltas = [delta for choice in choices if isinstance(delta := choice.get("delta"), dict)]
    said = [value for delta in deltas for name, value in delta.items() if name != "role"]
    return any(said) or any(choice.get("text") for choice in choices)


async def _alive(chunks: Chunks) -> AsyncGenerator[tuple[Attempt | None, dict[str, Any]], None]:
    """Yield chunks, and an empty one whenever none came for a while, so that nothing between closes the line."""
    ready: Ready = asyncio.Queue(READ_AHEAD)
    reading = asyncio.create_task(_read(chunks, ready))
    try:
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    chunk = await ready.get()
            except TimeoutError:
                yield None, {}
                continue
            if chunk is None:
                return
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk
    finally:
        reading.cancel()
        # Starlette cancels a left stream again and again, which would break off the closing of the engine's connection.
        with CancelScope(shield=True), contextlib.suppress(asyncio.CancelledError, Exception):
            await reading


async def _read(chunks: Chunks, ready: Ready) -> None:
    """Hand on chunks as they come, a few ahead, and then None or the error that ended them."""
    try:
        async for chunk in chunks:
            await ready.put(chunk)
    except Exception as error:
        await ready.put(error)
    else:
        await ready.put(None)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _count(router: Router, attempt: Attempt, route: Route, usage: dict[str, Any] | None) -> None:
    router.metrics.requests.labels(attempt.model.id, route, 200).inc()
    if attempt.instead_of:
        router.metrics.fallbacks.labels(attempt.instead_of).inc()
    for kind in ("prompt_tokens", "completion_tokens"):
        if usage and isinstance(usage.get(kind), int):
            router.metrics.tokens.labels(attempt.model.id, kind).inc(usage[kind])
