"""The program in an engine's own process: llama.cpp's server on one GGUF file and its adapters, on loopback.

Reads an `EngineSpec` as one line of JSON on standard input, writes `{"address": …}` as one line on standard output,
and ends when standard input closes, which it does when the parent is gone. Knows no request.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until the parent closes the pipe."""
    spec = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what llama.cpp prints must not be taken for the address
    server = start(spec)
    out.write(json.dumps({"address": server.listening_address}) + "\n")
    out.flush()
    sys.stdin.read()
    os._exit(0)  # without waiting for answers that nobody will read


def start(spec: dict[str, Any]) -> Any:
    """Return a server that listens on a free loopback port: llama.cpp's own, or what stands in where it is missing."""
    try:
        import xllamacpp
    except ImportError:
        from factory.backends.engine_fallback import FallbackServer

        return FallbackServer(spec)
    params = xllamacpp.CommonParams()
    params.model.path = spec["model"]
    # At scale 0 an adapter is loaded and not applied: every request names the scales of all adapters.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in spec["adapters"]]
    params.n_ctx, params.n_parallel, params.kv_unified = spec["num_ctx"], spec["parallel"], True
    params.cache_ram_mib = 0  # the cache of prompts is keyed by tokens alone: an adapter would get another's
    params.n_batch = params.n_ubatch = 512
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads = spec["threads"]
        threads.poll = 0  # engines share the cores: one that waits must not spin
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys, params.cors_origins = [spec["key"]], "localhost"
    params.ui, params.endpoint_slots, params.endpoint_props, params.offline = False, False, False, True
    params.verbosity = 0
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
