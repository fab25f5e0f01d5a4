"""llama-cpp-python behind the routes of llama.cpp's own server, where that is not installed: one request at a time.

Runs in an engine's process like the other; the parent cannot tell them apart, but for speed, logprobs, and streams
that report no usage.
"""

import ctypes
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as ll
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from factory.errors import BackendError

KNOWN = (
    *("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "max_tokens", "response_format", "tools", "tool_choice"),
)
START_TIMEOUT_S = 60.0


class FallbackServer:
    """A file and its adapters, served on a free loopback port until the process ends."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Load the file and start listening.

        Raises:
            BackendError: an adapter does not fit the file, or the port cannot be opened.
        """
        self._llama = llama_cpp.Llama(
            spec["model"],
            n_ctx=spec["num_ctx"],
            n_threads=spec["threads"],
            n_threads_batch=spec["threads"],
            flash_attn=True,
            verbose=False,
        )
        self._adapters = [self._load(path) for path in spec["adapters"]]
        self._key, self._lock, self._scales = spec["key"], threading.Lock(), [0.0] * len(self._adapters)
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
        chat, text = self._llama.create_chat_completion, self._llama.create_completion
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._route(chat, "messages"), methods=["POST"]),
                Route("/v1/completions", self._route(text, "prompt"), methods=["POST"]),
            ]
        )

    def _route(self, complete: Any, asked: str) -> Any:
        async def answer(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {self._key}":
                return _error(401, "the key is missing or wrong")
            body = await request.json()
            if body.get("logprobs"):
                return _error(
                    400, "logprobs need the package xllamacpp: pip install 'adapter-factory[serve]'"
                )
            options = {name: body[name] for name in KNOWN if body.get(name) is not None}
            scales = [entry["scale"] for entry in body.get("lora", [])]
            work = self._answers(
                complete, {asked: body[asked], "stream": bool(body.get("stream")), **options}, scales
            )
            if body.get("stream"):
                return StreamingResponse(_events(work), media_type="text/event-stream")
            return JSONResponse(await run_in_threadpool(next, work))

        return answer

    def _answers(
        self, complete: Any, options: dict[str, Any], scales: list[float]
    ) -> Iterator[dict[str, Any]]:
        """Yield the chunks of an answer, or the whole of it, while nobody else is answered."""
        with self._lock:
            self._apply(scales)
            found = complete(**options)
            if options["stream"]:
                yield from found
            else:
                yield found

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


def _events(chunks: Iterator[dict[str, Any]]) -> Iterator[str]:
    for chunk in chunks:
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "engine_error", "code": status}}, status)
