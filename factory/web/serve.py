"""Puts API and playground together on one port. Answers nothing itself."""

import logging
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factory.api.guard import LOOPBACK, Guard, Rules
from factory.api.keys import key_file, read_key
from factory.api.metrics import Metrics
from factory.api.models import Catalog, EndpointSpec, build_catalog, check_bundles, find_bundles
from factory.api.router import Router, open_pool
from factory.api.routes import build_api
from factory.errors import FactoryError, MissingExtraError, UsageError
from factory.web.pages import mount_pages

if TYPE_CHECKING:
    import fastapi

logger = logging.getLogger(__name__)
PORT = 8080
ANYWHERE = frozenset({"0.0.0.0", "::"})
GRACE_S = 5


@dataclass(frozen=True)
class ServeConfig:
    """What is served and to whom.

    `host` other than loopback needs `allow_remote`; `names` are further names under which other machines reach this
    one. With `finds_more`, bundles that appear in `adapters/` and `build/` are served too. `endpoint` is a model of
    its own; with `fallback` it also answers when an engine cannot.
    """

    bundles: tuple[Path, ...]
    finds_more: bool = True
    host: str = "127.0.0.1"
    port: int = PORT
    allow_remote: bool = False
    names: tuple[str, ...] = ()
    endpoint: EndpointSpec | None = None
    fallback: bool = False
    parallel: int = 8
    most_engines: int = 3


def endpoint_spec(url: str | None, model: str | None, key_env: str, fallback: bool) -> EndpointSpec | None:
    """Return the endpoint that some options name, if they name one.

    Raises:
        UsageError: one option is missing, or the key is not there.
    """
    if url is None:
        if model or fallback:
            raise UsageError("--endpoint-model and --fallback need --endpoint, the URL they are about")
        return None
    if not url.startswith(("http://", "https://")) or not model:
        raise UsageError(f"--endpoint {url!r} needs http:// or https:// in front, and --endpoint-model")
    if key_env and not os.environ.get(key_env):
        raise UsageError(
            f"The environment variable {key_env} is empty: set it to the endpoint's key, or add --endpoint-key-env ''"
        )
    return EndpointSpec(model, url, model, key_env)


def run(config: ServeConfig) -> None:
    """Serve until interrupted.

    Raises:
        FactoryError: a bundle is missing or damaged, the port is taken, or the host needs `--allow-remote`.
    """
    import uvicorn

    # Begun in the background it would ignore Ctrl-C, and so would the training runs that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    rules = make_rules(config)
    check_port(config.host, config.port)
    check_bundles(config.bundles)
    app = build_server(config, rules)
    place = f"http://{'localhost' if config.host in ANYWHERE else config.host}:{config.port}"
    logger.info("API         %s/v1   key in %s", place, key_file())
    if any(getattr(route, "path", "") == "/ui" for route in app.routes):
        logger.info("playground  %s/ui   (Ctrl+C ends both)", place)
    uvicorn.run(
        Guard(app, rules),
        host=config.host,
        port=config.port,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
    )


def make_rules(config: ServeConfig) -> Rules:
    """Return who is let in.

    Raises:
        UsageError: another machine could reach this server and nobody allowed it.
    """
    local = config.host in {"127.0.0.1", "::1", "localhost"}
    if not local and not config.allow_remote:
        raise UsageError(
            f"Host {config.host!r} lets other machines in: add --allow-remote if that is meant; they then need the key"
        )
    own = {config.host} - ANYWHERE
    hosts = LOOPBACK | {f"[{name}]" if ":" in name else name.lower() for name in (*own, *config.names)}
    return Rules(read_key(), frozenset(hosts), keyed_pages=not local)


def build_server(config: ServeConfig, rules: Rules) -> "fastapi.FastAPI":
    """Return the application: the API, and the playground at /ui where gradio is installed."""
    endpoints = [config.endpoint] if config.endpoint else []

    def catalog() -> Catalog:
        found = filter(_is_usable, find_bundles(Path.cwd())) if config.finds_more else ()
        bundles = [*config.bundles, *found]
        return build_catalog(bundles, endpoints, parallel=config.parallel)

    fallback = config.endpoint if config.fallback else None
    metrics = Metrics()
    pool = open_pool(metrics, config.most_engines)
    router = Router(catalog(), fallback=fallback, renewed=catalog, pool=pool, metrics=metrics)
    app = build_api(router)
    try:
        mount_pages(app, router, Path.cwd())
    except MissingExtraError as error:
        logger.warning("no playground: %s", error)
    return app


def _is_usable(bundle: Path) -> bool:
    """Tell whether a bundle that nobody named can be served; why not is logged."""
    try:
        check_bundles([bundle])
        build_catalog([bundle], with_bases=False)
    except FactoryError as error:
        logger.warning("%s is not served: %s", bundle, error)
        return False
    return True


def check_port(host: str, port: int) -> None:
    """Make sure that the port can be opened.

    Raises:
        UsageError: something else has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"Port {port} on {host} cannot be opened ({error.strerror}): name another with --port"
            ) from error
