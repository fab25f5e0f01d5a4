"""Who answers a request: the model's engine, one new try when it dies, else an endpoint if the user allowed it.

The seam for tiers: everything that decides where a request goes stands here. Nothing is tried again, and nobody else
is asked, once the first chunk was passed on. Knows requests as engines read them; no HTTP of its own.
"""

import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp

from factory.api.errors import EngineError, RequestError, UnknownModelError, UpstreamError
from factory.api.metrics import Metrics
from factory.api.models import Catalog, EndpointSpec, ServedModel, endpoint_model, find
from factory.api.stub import stub_answer, stub_chunks
from factory.backends import upstream
from factory.backends.engine import Engine, EnginePool
from factory.errors import BackendError

logger = logging.getLogger(__name__)
Route = Literal["chat/completions", "completions"]
TRIES = 2  # an engine that dies before its first word is started again and asked once more


@dataclass(frozen=True)
class Attempt:
    """A model that may answer, and why it is asked in place of the one that was meant, if so."""

    model: ServedModel
    instead_of: str = ""


@dataclass(frozen=True)
class Answer:
    """A whole answer, and which model gave it."""

    attempt: Attempt
    body: dict[str, Any]


class Router:
    """Sends requests to engines and endpoints; holds the engines and one HTTP client."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        fallback: EndpointSpec | None = None,
        renewed: Callable[[], Catalog] | None = None,
        pool: EnginePool | None = None,
        client: aiohttp.ClientSession | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Start nothing yet.

        `fallback` is the endpoint that may answer when an engine cannot; `renewed` returns the catalog anew.
        """
        self.catalog, self.fallback, self._renewed = catalog, fallback, renewed
        self.metrics = metrics or Metrics()
        self.pool = pool or open_pool(self.metrics)
        self._opened = client

    def renew(self) -> None:
        """Serve what is there now: models made since are added, those that are gone are left out."""
        if self._renewed:
            self.catalog = self._renewed()

    def find(self, model: str) -> ServedModel:
        """Return the model of an id.

        Raises:
            UnknownModelError: there is none; the message names those there are.
        """
        served = find(self.catalog, model)
        if served is None:
            known = ", ".join(self.catalog.models) or "none"
            raise UnknownModelError(f"Model {model!r} is not served here: use one of {known}", param="model")
        return served

    async def answer(self, model: ServedModel, route: Route, body: dict[str, Any]) -> Answer:
        """Return a whole answer.

        Raises:
            ApiError: nobody who may answer could.
        """
        lost: Exception | None = None
        for attempt in self._attempts(model):
            try:
                return Answer(attempt, await self._post(attempt.model, route, body))
            except upstream.AnsweredError as error:
                raise UpstreamError(error.status, str(error), error.code) from error
            except BackendError as error:
                lost = await self._note(attempt, error)
        raise _nobody(model, lost, self.fallback) from lost

    async def stream(
        self, model: ServedModel, route: Route, body: dict[str, Any]
    ) -> AsyncGenerator[tuple[Attempt, dict[str, Any]], None]:
        """Yield the chunks of an answer with who gives it; always the same one after the first chunk.

        Raises:
            ApiError: nobody who may answer could, or who answered broke off.
        """
        lost: Exception | None = None
        for attempt in self._attempts(model):
            begun = False
            try:
                async with aclosing(self._stream(attempt.model, route, body)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield attempt, chunk
                return
            except upstream.AnsweredError as error:
                raise UpstreamError(error.status, str(error), error.code) from error
            except BackendError as error:
                lost = await self._note(attempt, error)
                if begun:
                    raise EngineError(f"{attempt.model.id} broke off in its answer: ask again") from error
        raise _nobody(model, lost, self.fallback) from lost

    async def close(self) -> None:
        """End the engines and close all connections."""
        await self.pool.close()
        if self._opened:
            await self._opened.close()

    @property
    def _client(self) -> aiohttp.ClientSession:
        """The HTTP client, opened when it is first needed: it belongs to the event loop that runs then."""
        self._opened = self._opened or upstream.open_client()
        return self._opened

    def _attempts(self, model: ServedModel) -> list[Attempt]:
        if model.engine is None:
            return [Attempt(model)]
        others = [Attempt(endpoint_model(self.fallback), model.id)] if self.fallback else []
        return [Attempt(model)] * TRIES + others

    async def _note(self, attempt: Attempt, error: BackendError) -> BackendError:
        logger.warning("%s did not answer: %s", attempt.model.id, error)
        self.metrics.lost.labels(attempt.model.id).inc()
        if attempt.model.engine:
            await self.pool.settle(attempt.model.engine)
        return error

    async def _post(self, model: ServedModel, route: Route, body: dict[str, Any]) -> dict[str, Any]:
        if model.kind == "stub":
            return stub_answer(body)
        if model.endpoint:
            url, key = _endpoint_address(model.endpoint, route)
            return await upstream.post(self._client, url, key, _for_endpoint(model.endpoint, body))
        assert model.engine is not None, "a model that is neither stub nor endpoint has an engine"
        async with self.pool.use(model.engine) as address:
            url = f"{address.url}/v1/{route}"
            sent = body | {"lora": model.scales()}
            return await upstream.post(self._client, url, address.key, sent, once=True)

    async def _stream(
        self, model: ServedModel, route: Route, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        if model.kind == "stub":
            for chunk in stub_chunks(body):
                yield chunk
        elif model.endpoint:
            url, key = _endpoint_address(model.endpoint, route)
            sent = _for_endpoint(model.endpoint, body)
            async with aclosing(upstream.stream(self._client, url, key, sent)) as chunks:
                async for chunk in chunks:
                    yield chunk
        else:
            assert model.engine is not None, "a model that is neither stub nor endpoint has an engine"
            async with self.pool.use(model.engine) as address:
                url, sent = f"{address.url}/v1/{route}", body | {"lora": model.scales()}
                async with aclosing(
                    upstream.stream(self._client, url, address.key, sent, once=True)
                ) as chunks:
                    async for chunk in chunks:
                        yield chunk


def open_pool(metrics: Metrics, most: int = 3) -> EnginePool:
    """Return a pool of engines whose deaths are counted."""
    return EnginePool(most, lambda spec: Engine(spec, on_death=lambda code: metrics.deaths.inc()))


def _endpoint_address(endpoint: EndpointSpec, route: Route) -> tuple[str, str]:
    """Return an endpoint's URL for a route and its key, read from the environment when it is needed."""
    key = os.environ.get(endpoint.key_env, "") if endpoint.key_env else ""
    if endpoint.key_env and not key:
        raise RequestError(
            f"{endpoint.name} needs a key: set the environment variable {endpoint.key_env} and start again"
        )
    return f"{endpoint.url.rstrip('/')}/{route}", key


ENGINE_ONLY = ("top_k", "min_p", "repeat_penalty", "cache_prompt", "lora")


def _for_endpoint(endpoint: EndpointSpec, body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without the fields that only llama.cpp knows, naming the endpoint's model."""
    return {name: value for name, value in body.items() if name not in ENGINE_ONLY} | {
        "model": endpoint.model
    }


def _nobody(model: ServedModel, error: Exception | None, fallback: EndpointSpec | None) -> EngineError:
    other = f", nor did {fallback.name}" if fallback and model.engine else ""
    allow = "" if fallback or model.engine is None else ", or allow an endpoint to stand in with --fallback"
    return EngineError(f"{model.id} did not answer{other} ({error}): ask again in a moment{allow}")
