"""Models that are stubs with a speed and faults of their own, over real HTTP on loopback, and a catalog of them."""

import contextlib
import json
import select
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from factory.api.models import Catalog, EndpointSpec, ServedModel, endpoint_model
from factory.api.router import Router
from factory.backends.engine import Address, EnginePool, EngineSpec
from factory.weights.gguf_tokens import Vocabulary

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
BASE, ADAPTER = "smollm2-135m", "tolvane"


@dataclass(frozen=True)
class Voice:
    """How a model answers: its text, the wait before each word, and whether it refuses or breaks off."""

    text: str = "NAME answers NUMBER: QUESTION"
    pause_s: float = 0.0
    status: int = 200
    breaks_after: int | None = None


@dataclass
class Call:
    """One request a model got. `left` is when the client was gone before the end, on `time.monotonic`'s clock."""

    name: str
    body: dict
    num_words: int = 0
    left: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def question(self):
        return self.body["messages"][-1]["content"]


class ModelStub(ThreadingHTTPServer):
    """Answers as the model that a URL's first part names, and remembers every call."""

    daemon_threads = True

    def __init__(self, voices):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.voices, self.calls = voices, []

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def last(self, name):
        """The newest call of a model."""
        return next(call for call in reversed(self.calls) if call.name == name)

    def handle_error(self, request, client_address):
        """Say nothing when a client goes away."""


def _filled(text, **values):
    for name, value in values.items():
        text = text.replace(name, value)
    return text


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        name = self.path.split("/")[1]
        voice = self.server.voices[name]
        call = Call(name, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.calls.append(call)
        number = sum(other.name == name for other in self.server.calls)
        try:
            if voice.status != 200:
                self._refuse(voice.status)
            else:
                self._speak(
                    voice, call, _filled(voice.text, NAME=name, NUMBER=str(number), QUESTION=call.question)
                )
        except OSError:
            call.left = call.left or time.monotonic()
        finally:
            call.ended.set()

    def _refuse(self, status):
        body = json.dumps({"error": {"message": "out of order", "type": "server_error"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _speak(self, voice, call, text):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        words = text.split(" ")
        for word in words[: voice.breaks_after]:
            if select.select([self.connection], [], [], voice.pause_s)[0]:  # readable: the client is gone
                call.left = time.monotonic()
                return
            self._send({"choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
            call.num_words += 1
        if voice.breaks_after is None:
            self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
            self._send({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, chunk):
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()


@contextlib.contextmanager
def running_stub(voices):
    """A model stub while it listens."""
    stub = ModelStub(voices)
    thread = threading.Thread(target=stub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield stub
    stub.shutdown()
    stub.server_close()
    thread.join(10)


class StubEngine:
    """An engine of the pool that is a part of a stub: the file's stem names the model."""

    def __init__(self, stub, spec):
        self.spec, self.is_running, self._stub = spec, True, stub

    async def open(self):
        return Address(self._stub.url(self.spec.model.stem), "key")

    async def close(self):
        self.is_running = False


def local_model(name, kind, **more):
    """A model on this machine that a stub's engine answers for."""
    return ServedModel(
        name,
        kind,
        system="Be brief.",
        engine=EngineSpec(Path(f"{name}.gguf")),
        base="SmolLM2",
        quantization="Q8_0",
        sha256="ab" * 32,
        vocabulary=Vocabulary(template=TEMPLATE),
        **more,
    )


def make_router(stub, bundle=None):
    """A router over a base and an adapter that a stub answers for, and over endpoints, which are its other voices."""
    adapter = local_model(ADAPTER, "adapter", adapter_sha256="cd" * 32, bundle=bundle)
    models = [local_model(BASE, "base"), adapter]
    others = [name for name in stub.voices if name not in {BASE, ADAPTER}]
    models += [endpoint_model(EndpointSpec(name, f"{stub.url(name)}/v1", name, "")) for name in others]
    pool = EnginePool(make=lambda spec: StubEngine(stub, spec))
    return Router(Catalog({model.id: model for model in models}), pool=pool)
