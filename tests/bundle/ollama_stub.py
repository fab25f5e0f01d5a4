"""A small Ollama for tests: blobs with a digest check, and models made of them, over real HTTP on loopback."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SUCCESS = ({"status": "parsing GGUF"}, {"status": "writing manifest"}, {"status": "success"})


class OllamaStub(ThreadingHTTPServer):
    """Keeps blobs and models. A test may change what it says: `rows` of the stream, `head_status`, `cut` the stream.

    `before_head` is called before a HEAD is answered; while `gate` is clear, a blob's later bytes are not read.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs, self.models, self.seen = {}, {}, []
        self.rows, self.head_status, self.cut, self.before_head = SUCCESS, None, False, lambda: None
        self.gate = threading.Event()
        self.gate.set()
        self.received = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Say nothing when a client goes away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.server.seen.append(("HEAD", self.path))
        self.server.before_head()
        known = self.path.removeprefix("/api/blobs/") in self.server.blobs
        self.send_response(self.server.head_status or (200 if known else 404))
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.server.seen.append(("POST", self.path))
        if self.path == "/api/create":
            self._create(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        else:
            self._keep_blob(self.path.removeprefix("/api/blobs/"))

    def _keep_blob(self, digest):
        data, left = bytearray(), int(self.headers["Content-Length"])
        while left and (piece := self.rfile.read(min(left, 1 << 16))):
            data += piece
            left -= len(piece)
            self.server.received = len(data)
            self.server.gate.wait(10)
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            self._refuse(400, f"digest mismatch, expected {digest!r}, got {found!r}")
            return
        self.server.blobs[digest] = bytes(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _create(self, request):
        if missing := set(request["files"].values()) - self.server.blobs.keys():
            self._refuse(400, f"blob not found: {missing}")
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for row in self.server.rows:
            self._chunk((row if isinstance(row, str) else json.dumps(row)).encode() + b"\n")
        if self.server.cut:
            self.close_connection = True
            return
        self._chunk(b"")
        if {"status": "success"} in self.server.rows:
            self.server.models[request["model"]] = request

    def _chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _refuse(self, status, message):
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


def start_stub():
    """Return a running stub and the function that ends it."""
    stub = OllamaStub()
    thread = threading.Thread(target=stub.serve_forever, args=(0.01,))
    thread.start()

    def stop():
        stub.gate.set()
        stub.shutdown()
        thread.join()
        stub.server_close()

    return stub, stop


def write_gguf(path, template, tokens=("a", "b"), opening=None, size_bytes=4096):
    """Write a GGUF file that carries a chat template and a tensor of some bytes."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    if template:
        writer.add_chat_template(template)
    if tokens:
        writer.add_token_list(list(tokens))
    if opening is not None:
        writer.add_bos_token_id(opening)
    values = np.full((size_bytes // 128, 32), len(path.name), dtype=np.float32)
    writer.add_tensor("token_embd.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_bundle(folder, template, size_bytes=4096, **changes):
    """Write a bundle of two model files and an adapter, with the Modelfile that the export stage would write."""
    from factory.bundle.manifest import list_files, write_manifest
    from factory.bundle.modelfile import modelfile
    from factory.chat.turns import derive
    from tests.bundle.manifests import make_manifest

    folder.mkdir(parents=True)
    for name in ("model-Q8_0.gguf", "model-Q4_K_M.gguf", "adapter.gguf"):
        write_gguf(folder / name, template, size_bytes=size_bytes)
    contents = make_manifest(**changes)
    (folder / "Modelfile").write_text(modelfile(contents, derive(template)))
    write_manifest(folder, contents.model_copy(update={"files": list_files(folder)}))
    return folder
