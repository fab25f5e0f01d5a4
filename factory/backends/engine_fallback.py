"""llama-cpp-python behind the routes of llama.cpp's own server, where that is not installed: one request at a time.

Runs in an engine's process like the other; the parent cannot tell them apart, but for speed, logprobs, and tools that
a model may call or leave.
"""

import asyncio
import ctypes
import hmac
import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import jinja2
import llama_cpp
import llama_cpp.llama_cpp as ll
import uvicorn
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
from llama_cpp.llama_grammar import LlamaGrammar
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from factory.backends import engine_shapes as shapes
from factory.backends.engine_shapes import NEEDS_SERVER, Asked, Piece, RefusedError
from factory.errors import BackendError

KNOWN = (
    *("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "max_tokens"),
)
START_TIMEOUT_S = 60.0
STEP_TOKENS = 64  # of a prompt are read between two looks at whether the client is still there


class GoneError(BackendError):
    """The client left: nobody will read the answer."""


class Model(llama_cpp.Llama):
    """A model that stops reading and writing once the client it works for has left."""

    gone: threading.Event | None = None

    def eval(self, tokens: Sequence[int]) -> None:
        """Read tokens, a few at a time.

        Raises:
            GoneError: the client has left; what was read until then is kept.
        """
        for start in range(0, len(tokens), STEP_TOKENS):
            if self.gone and self.gone.is_set():
                raise GoneError("the client left")
            super().eval(tokens[start : start + STEP_TOKENS])


class FallbackServer:
    """A file and its adapters, served on a free loopback port until the process ends."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Load the file and start listening.

        Raises:
            BackendError: an adapter does not fit the file, or the port cannot be opened.
        """
        self._llama = Model(
            spec["model"],
            n_ctx=spec["num_ctx"],
            n_threads=spec["threads"],
            n_threads_batch=spec["threads"],
            flash_attn=True,
            verbose=False,
        )
        self._adapters = [self._load(path) for path in spec["adapters"]]
        self._key, self._turn, self._scales = spec["key"], asyncio.Lock(), [0.0] * len(self._adapters)
        # asyncio sends what is written at once (TCP_NODELAY) on sockets that it opened itself, and on others not.
        server = uvicorn.Server(uvicorn.Config(self._app(), port=0, log_level="critical"))
        threading.Thread(target=server.run, daemon=True).start()
        started = time.monotonic()
        while not server.started:
            if time.monotonic() - started > START_TIMEOUT_S:
                raise BackendError("The engine's web server did not start: free a loopback port")
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.listening_address = f"http://127.0.0.1:{port}"

    def _load(self, path: str) -> Any:
        adapter = ll.llama_adapter_lora_init(self._llama.model, path.encode())
        if not adapter:
            raise BackendError(f"The adapter {path!r} does not fit its base: export the bundle again")
        return adapter

    def _app(self) -> Starlette:
        paths = ("/v1/chat/completions", "/v1/completions")
        return Starlette(routes=[Route(path, self._answer, methods=["POST"]) for path in paths])

    async def _answer(self, request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._key}".encode()):
            error = {"code": 401, "message": "the key is missing or wrong", "type": "authentication_error"}
            return JSONResponse({"error": error}, 401)
        body = await request.json()
        try:
            asked = await run_in_threadpool(self._read, body)
            if body.get("stream"):
                wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
                events = _events(asked, self._pieces(asked, request), wants_usage)
                return StreamingResponse(events, media_type="text/event-stream")
            async with aclosing(self._pieces(asked, request)) as pieces:
                return JSONResponse(shapes.whole(asked, [piece async for piece in pieces]))
        except RefusedError as error:
            return JSONResponse(error.body, 400)
        except GoneError:
            return Response(status_code=400)

    def _read(self, body: dict[str, Any]) -> Asked:
        """Return what a request asks for.

        Raises:
            RefusedError: it does not fit the context, or wants what cannot be done here.
        """
        if body.get("logprobs"):
            raise RefusedError(f"logprobs need {NEEDS_SERVER}")
        is_chat = "messages" in body
        tool, grammar = shapes.forced_tool(body), shapes.grammar_of(body)
        if grammar:
            self._check(grammar)
        text = self._render(body) if is_chat else body["prompt"]
        prompt, room = self._llama.tokenize(text.encode(), not is_chat, special=True), self._llama.n_ctx()
        if not prompt:
            raise RefusedError("the prompt is empty")
        if len(prompt) >= room:
            raise RefusedError(
                f"request ({len(prompt)} tokens) exceeds the available context size ({room} tokens)",
                "exceed_context_size_error",
                n_prompt_tokens=len(prompt),
                n_ctx=room,
            )
        options = {"max_tokens": None} | {name: body[name] for name in KNOWN if body.get(name) is not None}
        scales = [entry["scale"] for entry in body.get("lora", [])]
        return Asked(prompt, options, scales, is_chat, tool[0] if tool else None, grammar)

    def _check(self, grammar: str) -> None:
        """Refuse a grammar that llama.cpp cannot read, which would end the process over one later."""
        vocabulary = ll.llama_model_get_vocab(self._llama.model)
        sampler = ll.llama_sampler_init_grammar(vocabulary, grammar.encode(), b"root")
        if not sampler:
            raise RefusedError("the JSON schema makes a grammar that llama.cpp cannot read: simplify it")
        ll.llama_sampler_free(sampler)

    def _render(self, body: dict[str, Any]) -> str:
        """Return a chat as the model's own template writes it."""
        end, begin = (
            self._llama.detokenize([token], special=True).decode() if token >= 0 else ""
            for token in (self._llama.token_eos(), self._llama.token_bos())
        )
        tools = None if body.get("tool_choice") == "none" else body.get("tools")
        try:
            write = Jinja2ChatFormatter(self._llama.metadata["tokenizer.chat_template"], end, begin)
            return write(messages=body["messages"], tools=tools).prompt
        except (LookupError, TypeError, ValueError, jinja2.TemplateError) as error:
            raise RefusedError(f"the model's chat template cannot write these messages: {error}") from error

    async def _pieces(self, asked: Asked, request: Request) -> AsyncGenerator[Piece, None]:
        """Yield an answer piece by piece while nobody else is answered, and stop making it when its client leaves."""
        gone = threading.Event()
        watch = asyncio.create_task(_note_leaving(request, gone))
        try:
            async with self._turn:
                async for piece in iterate_in_threadpool(self._generate(asked, gone)):
                    yield piece
        finally:
            watch.cancel()

    def _generate(self, asked: Asked, gone: threading.Event) -> Iterator[Piece]:
        """Yield the pieces of an answer."""
        grammar = LlamaGrammar.from_string(asked.grammar, verbose=False) if asked.grammar else None
        num_prompt = len(asked.prompt)
        self._apply(asked.scales)
        self._llama.gone = gone
        chunks: Any = self._llama.create_completion(
            asked.prompt, stream=True, grammar=grammar, **asked.options
        )
        for choice in (chunk["choices"][0] for chunk in chunks):
            reason = choice["finish_reason"]
            # All tokens that were drawn are in the context, but for the last.
            num_drawn = self._llama.n_tokens - num_prompt + 1
            yield Piece(choice["text"], reason, shapes.usage_of(num_prompt, num_drawn) if reason else None)

    def _apply(self, scales: list[float]) -> None:
        """Put the adapters at their scales; what was computed under others is forgotten, else its logits come back."""
        if scales == self._scales or not self._adapters:
            return
        count, context = len(self._adapters), self._llama.ctx
        adapters = (ll.llama_adapter_lora_p_ctypes * count)(*self._adapters)
        ll.llama_set_adapters_lora(context, adapters, count, (ctypes.c_float * count)(*scales))
        self._llama.reset()
        ll.llama_memory_clear(ll.llama_get_memory(context), True)
        self._scales = scales


async def _note_leaving(request: Request, gone: threading.Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
    gone.set()


async def _events(asked: Asked, pieces: AsyncGenerator[Piece, None], wants_usage: bool) -> AsyncIterator[str]:
    is_first, usage = True, None
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                yield _event(shapes.chunk(asked, piece, is_first=is_first))
                is_first, usage = False, piece.usage
        except GoneError:
            return
    if wants_usage and usage:
        yield _event(shapes.usage_chunk(asked, usage))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
