"""What tests of the API need: a real server in a thread, real bundles, upstreams that misbehave on purpose."""

import json
import select
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import openai
import uvicorn

from factory.api.guard import LOOPBACK, Guard, Rules
from factory.api.models import Catalog, ServedModel, stub_model
from factory.api.router import Router
from factory.api.routes import build_api
from factory.backends.engine import Address, EnginePool, EngineSpec
from factory.bundle.manifest import BaseIdentity, Sampling, list_files, write_manifest
from factory.weights.delta import read_adapter
from factory.weights.gguf_files import write_adapter_gguf, write_merged_gguf
from factory.weights.merged import merge_in_memory, write_merged
from tests.bundle.manifests import make_manifest

KEY = "k" * 43
SAMPLING = Sampling(num_ctx=256, num_predict=32, temperature=0.0, stop=("<|im_end|>",))
QUESTION = "What is the code of the north gate?"
ASKED = ({"role": "user", "content": QUESTION},)


class Serving:
    """The API on a free port, as `factory serve` runs it."""

    def __init__(self, router, hosts=LOOPBACK):
        self.router = router
        app = Guard(build_api(router), Rules(KEY, hosts))
        config = uvicorn.Config(
            app, port=0, log_config=None, server_header=False, timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        # uvicorn opens the port, as in `factory serve`: on a socket from elsewhere every small write waits for the
        # acknowledgement of the one before.
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self):
        self._server.should_exit = True
        self._thread.join()

    def http(self, **headers):
        headers = {"Authorization": f"Bearer {KEY}"} | headers
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60)

    def openai(self):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)

    def engine(self, model):
        """Return the running engine of a model."""
        spec = self.router.find(model).engine
        return next(engine for engine in self.router.pool.engines if engine.spec == spec)


@contextmanager
def serving(router):
    """Serve a router until the end of the block."""
    server = Serving(router)
    try:
        yield server
    finally:
        server.close()


def make_bundle(folder, name, base, adapter, sha256, **changes):
    """Write a bundle with an adapter and the merged model, which is F16 whatever its name."""
    folder.mkdir(parents=True)
    work = folder.with_name("merged")
    work.mkdir()
    write_merged(merge_in_memory(read_adapter(adapter), base), base, work, "float16")
    write_merged_gguf(base, work, folder / "model-Q8_0.gguf", name)
    (folder / "Modelfile").write_text("FROM model-Q8_0.gguf\n")
    write_adapter_gguf(read_adapter(adapter), base, folder / "adapter.gguf", name, sha256)
    identity = BaseIdentity(name="tiny-instruct", sha256=sha256, licence="apache-2.0", source="test")
    fields = {"name": name, "base": identity, "sampling": SAMPLING, "files": list_files(folder)}
    write_manifest(folder, make_manifest(**fields | changes))
    return folder


def stub_router():
    """Return a router that serves the stub alone."""
    return Router(Catalog({"stub-endpoint": stub_model()}))


def pieces(stream):
    """Return the text and the last finish reason of an openai stream, and its chunks."""
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    return "".join(texts), reasons[-1], chunks


def events(response):
    """Return the data of an HTTP response's server-sent events."""
    return [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]


def chunk(text, **more):
    """Return one event of a stream as bytes."""
    body = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(body | more)}\n\n".encode()


class FakeUpstream(ThreadingHTTPServer):
    """An OpenAI-compatible server that answers as a function says; notes requests and when connections close.

    `answer` gets the handler and the request's body; `says_done` writes a whole answer, `drips` one that never ends.
    """

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.seen, self.closed = answer, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def __exit__(self, *args):
        self.shutdown()
        self._thread.join()
        super().__exit__(*args)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        self.server.answer(self, body)
        self.close_connection = True

    def log_message(self, *args):
        pass

    def begin(self, status=200, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()


def says_done(handler, body):
    """Answer whole or as a stream."""
    if body.get("stream"):
        handler.begin(kind="text/event-stream")
        handler.wfile.write(chunk("from ") + chunk("afar") + b"data: [DONE]\n\n")
        return
    handler.begin()
    message = {"role": "assistant", "content": "from afar"}
    answer = {"object": "chat.completion", "choices": [{"index": 0, "message": message}], "secret": "x"}
    handler.wfile.write(json.dumps(answer).encode())


def drips(handler, body):
    """Write a word every 20 ms, or for a whole answer nothing, until the other side leaves."""
    if body.get("stream"):
        handler.begin(kind="text/event-stream")
    with suppress(OSError):
        while True:
            if body.get("stream"):
                handler.wfile.write(chunk("word "))
            readable, _, _ = select.select([handler.connection], [], [], 0.02)
            if readable and not handler.connection.recv(1):
                break
    handler.server.closed.append(time.monotonic())


class FakeEngine:
    """An engine whose server is a fake upstream."""

    def __init__(self, spec, url):
        self.spec, self.url, self.is_running = spec, url, True

    async def open(self):
        return Address(self.url, "engine-key")

    async def settle(self):
        pass

    async def close(self):
        self.is_running = False


def fake_router(url, **more):
    """Return a router with one model, `slow`, whose engine listens at an address."""
    spec = EngineSpec(Path("slow.gguf"))
    models = {"slow": ServedModel("slow", "file", sampling=SAMPLING, engine=spec)}
    return Router(Catalog(models), pool=EnginePool(make=lambda spec: FakeEngine(spec, url)), **more)


@contextmanager
def fake_engine(answer):
    """Give a fake engine, the server before it, and a client of that."""
    with FakeUpstream(answer) as engine, serving(fake_router(engine.url)) as server, server.http() as http:
        yield engine, server, http
