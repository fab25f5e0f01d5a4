"""What is served: each base, each adapter on it, each verified file of a bundle, and endpoints.

An adapter and its base share one engine, which loads the base once; a request names the adapter's scale. A merged file
has an engine of its own, started when it is first asked. Starts nothing and answers nothing.
"""

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from factory import hardware, store
from factory.backends.engine import EngineSpec
from factory.backends.models import read_sure_from
from factory.bundle.manifest import MANIFEST, Manifest, Sampling, read_manifest
from factory.errors import BaseModelError, FactoryError, MissingExtraError

if TYPE_CHECKING:
    from factory.weights.gguf_tokens import Vocabulary

logger = logging.getLogger(__name__)
DIGEST_LENGTH = 12
BASE_TYPE = "Q8_0"  # what a base is served as: half of F16's memory
SHARED_CONTEXTS = 4  # full contexts that the requests running at a time share
ADAPTER_FILE = "adapter.gguf"
SCORED_ADAPTER = "adapter"  # its name among a bundle's scores
ELSEWHERE = Sampling(
    num_ctx=8192, num_predict=1024, temperature=0.0, stop=()
)  # for models that we did not make
OLLAMA_CLOUD = ("-cloud", ":cloud")  # how Ollama's names of models end that its local server passes on
Kind = Literal["base", "adapter", "file", "endpoint", "stub"]


@dataclass(frozen=True)
class EndpointSpec:
    """Another OpenAI-compatible server; `key_env` names the environment variable that holds its key."""

    name: str
    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"

    @property
    def is_on_this_machine(self) -> bool:
        """Whether its address is this machine's own, and its model not one that Ollama asks its cloud for."""
        return _is_on_this_machine(self.url, self.model)


@dataclass(frozen=True)
class ServedModel:
    """One id of `/v1/models` and everything needed to ask it.

    `adapter` is its number in the engine, or None; `sha256` identifies the model file, `adapter_sha256` the adapter's.
    `vocabulary` holds the texts that the model reads as its own marks, which no message may hold. `factory ask`
    declines an answer from memory that is less sure than `sure_from`, in nats; None is not known.
    """

    id: str
    kind: Kind
    system: str = ""
    sampling: Sampling = ELSEWHERE
    engine: EngineSpec | None = None
    adapter: int | None = None
    base: str = ""
    quantization: str = ""
    sha256: str = ""
    adapter_sha256: str = ""
    bundle: Path | None = None
    endpoint: EndpointSpec | None = None
    vocabulary: "Vocabulary | None" = None
    sure_from: float | None = None

    @property
    def fingerprint(self) -> str:
        """A short name of the exact bytes that answer."""
        parts = (("file", self.sha256), ("adapter", self.adapter_sha256))
        return "+".join(f"{name}-{digest[:DIGEST_LENGTH]}" for name, digest in parts if digest) or self.kind

    @property
    def provenance(self) -> dict[str, str]:
        """Which bytes answer, and where; what does not apply is left out."""
        where = {"url": self.endpoint.url, "model": self.endpoint.model} if self.endpoint else {}
        known = {"kind": self.kind, "base": self.base, "quantization": self.quantization}
        known |= {"sha256": self.sha256, "adapter_sha256": self.adapter_sha256}
        known |= {"endpoint": where.get("url", ""), "endpoint_model": where.get("model", "")}
        return {name: value for name, value in known.items() if value}

    def scales(self) -> list[dict[str, Any]]:
        """Return the scale of every adapter in the engine: 1 for this one, 0 for all others.

        All are named every time, because an engine applies all of them when a request names none.
        """
        count = len(self.engine.adapters) if self.engine else 0
        return [{"id": number, "scale": float(number == self.adapter)} for number in range(count)]

    def card(self) -> dict[str, Any]:
        """Return the model as `/v1/models` lists it; no path is in it."""
        owner = self.endpoint.name if self.endpoint else "adapter-factory"
        card: dict[str, Any] = {"id": self.id, "object": "model", "created": 0, "owned_by": owner}
        card |= {
            "kind": self.kind,
            "context_length": self.sampling.num_ctx,
            "max_model_len": self.sampling.num_ctx,
        }
        known = {"base": self.base, "quantization": self.quantization}
        known |= {"sha256": self.sha256, "adapter_sha256": self.adapter_sha256}
        line = {} if self.sure_from is None else {"sure_from": self.sure_from}
        return card | {name: value for name, value in known.items() if value} | line


@dataclass(frozen=True)
class Catalog:
    """The models by id, the default first."""

    models: dict[str, ServedModel] = field(default_factory=dict)


def describe(provenance: Mapping[str, Any]) -> str:
    """Return one line for people that says which bytes answer, and where."""
    if provenance.get("kind") == "stub":
        return "a stub, not a model: it repeats the question"
    if url := provenance.get("endpoint"):
        model = provenance.get("endpoint_model", "a model")
        place = "on this machine" if _is_on_this_machine(url, model) else "leaves this machine"
        return f"{model} at {url} · {place}"
    known = {name: str(provenance.get(name, "")) for name in ("quantization", "base")}
    file, adapter = (str(provenance.get(name, ""))[:DIGEST_LENGTH] for name in ("sha256", "adapter_sha256"))
    parts = [f"{known['quantization']} file {file}" if file else "file unknown"]
    parts += [f"+ adapter {adapter}"] if adapter else []
    base = [f"base {known['base']}"] if known["base"] else []
    return " · ".join([" ".join(parts), *base, "on this machine"])


def _is_on_this_machine(url: str, model: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        own = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    return own and not model.endswith(OLLAMA_CLOUD)


def build_catalog(
    bundles: Sequence[Path],
    endpoints: Sequence[EndpointSpec] = (),
    *,
    parallel: int = 8,
    threads: int | None = None,
    with_bases: bool = True,
) -> Catalog:
    """Return what some bundles and endpoints serve: per bundle its adapter, then its files; then bases, endpoints.

    Of several bundles with one name the first is served. Where there is no endpoint, a stub stands in for one.

    Raises:
        ExportError: a folder is not a bundle, or its manifest is damaged.
        BaseModelError: a model file is damaged.
    """
    room = {"parallel": parallel, "threads": threads or hardware.num_cores()}
    manifests = _by_name(bundles)
    models: list[ServedModel] = []
    bases: list[ServedModel] = []
    for sha256 in dict.fromkeys(manifest.base.sha256 for manifest in manifests.values()):
        kin = {bundle: manifest for bundle, manifest in manifests.items() if manifest.base.sha256 == sha256}
        if with_bases:
            base, adapters = _on_base(kin, room)
            bases += base
            models += adapters
        for bundle, manifest in kin.items():
            models += _files(bundle, manifest, room)
    models.sort(key=lambda model: list(manifests).index(model.bundle) if model.bundle else -1)
    others = [endpoint_model(endpoint) for endpoint in endpoints] or [stub_model()]
    return Catalog({model.id: model for model in [*models, *bases, *others]})


def _by_name(bundles: Sequence[Path]) -> dict[Path, Manifest]:
    manifests: dict[Path, Manifest] = {}
    for bundle in dict.fromkeys(path.resolve() for path in bundles):
        manifest = read_manifest(bundle)
        if any(manifest.name == other.name for other in manifests.values()):
            logger.warning("%s is not served: another bundle is called %r, too", bundle, manifest.name)
            continue
        manifests[bundle] = manifest
    return manifests


def find_bundles(root: Path) -> list[Path]:
    """Return the bundles in `adapters/` and `build/` below a folder, newest first."""
    patterns = ("adapters/*", "build/*/bundle")
    manifests = [path for pattern in patterns for path in root.glob(f"{pattern}/{MANIFEST}")]
    return [path.parent for path in sorted(manifests, key=lambda path: (-path.stat().st_mtime, path))]


def endpoint_model(endpoint: EndpointSpec) -> ServedModel:
    """Return an endpoint as a model of its own id."""
    return ServedModel(endpoint.name, "endpoint", endpoint=endpoint)


def stub_model() -> ServedModel:
    """Return the stand-in for an endpoint where no key is set; it says what it is."""
    return ServedModel("stub-endpoint", "stub")


def _files(bundle: Path, manifest: Manifest, room: dict[str, int]) -> list[ServedModel]:
    """Return a bundle's merged files, its default file first."""
    files = [
        file for file in manifest.files if file.path.startswith("model-") and file.path.endswith(".gguf")
    ]
    served = []
    for file in sorted(files, key=lambda file: (file.path != manifest.default_file, file.path)):
        quantization = file.path.removeprefix("model-").removesuffix(".gguf")
        spec = EngineSpec(bundle / file.path, (), _num_ctx(manifest), **room)
        model = ServedModel(
            f"{manifest.name}:{quantization}", "file", manifest.system, manifest.sampling, spec
        )
        served.append(
            replace(
                model,
                base=manifest.base.name,
                quantization=quantization,
                sha256=file.sha256,
                bundle=bundle,
                vocabulary=_vocabulary(bundle / file.path),
                sure_from=read_sure_from(bundle, file.path),
            )
        )
    return served


def _on_base(kin: dict[Path, Manifest], room: dict[str, int]) -> tuple[list[ServedModel], list[ServedModel]]:
    """Return the base of some bundles and their adapters on it; nothing, with a note, where the base is missing."""
    manifest = next(iter(kin.values()))
    try:
        file = base_file(manifest.base.name, manifest.base.sha256)
    except (BaseModelError, MissingExtraError) as error:
        logger.warning("base and adapters of %s are not served, files are: %s", manifest.base.name, error)
        return [], []
    with_adapter = [bundle for bundle in kin if (bundle / ADAPTER_FILE).is_file()]
    for bundle in with_adapter:
        _check_header(bundle / ADAPTER_FILE)
    longest = max(_num_ctx(other) for other in kin.values())
    spec = EngineSpec(file, tuple(bundle / ADAPTER_FILE for bundle in with_adapter), longest, **room)
    base = ServedModel(
        manifest.base.name.lower(),
        "base",
        sampling=manifest.sampling,
        engine=spec,
        base=manifest.base.name,
        quantization=BASE_TYPE,
        sha256=store.hash_once(file),
        vocabulary=_vocabulary(file),
    )
    adapters = []
    for number, bundle in enumerate(with_adapter):
        own = kin[bundle]
        sha256 = next((entry.sha256 for entry in own.files if entry.path == ADAPTER_FILE), "")
        adapters.append(
            replace(
                base,
                id=own.name,
                kind="adapter",
                system=own.system,
                sampling=own.sampling,
                adapter=number,
                adapter_sha256=sha256,
                bundle=bundle,
                sure_from=read_sure_from(bundle, SCORED_ADAPTER),
            )
        )
    return [base], adapters


def _check_header(path: Path) -> None:
    """Refuse a file that llama.cpp would end the process over."""
    from factory.weights.gguf_header import check_gguf_header

    check_gguf_header(path)


def _num_ctx(manifest: Manifest) -> int:
    return manifest.sampling.num_ctx * SHARED_CONTEXTS


def base_file(name: str, sha256: str) -> Path:
    """Return a base as a GGUF file of the type it is served as, made once a machine.

    Raises:
        BaseModelError: the base cannot be found, or has other files than the one that is meant.
    """
    folder = store.cache_folder() / "bases" / f"{name}-{sha256[:DIGEST_LENGTH]}"
    target = folder / f"base-{BASE_TYPE}.gguf"
    if not target.is_file():
        from factory.weights.base import open_base
        from factory.weights.quantizer import quantize_file

        base = open_base(name, sha256)
        target = base.folder / target.name
        if not target.is_file():
            logger.info("quantizing base %s to %s for serving (once)", name, BASE_TYPE)
            quantize_file(base.gguf, target, BASE_TYPE, None, hardware.num_cores())
    return target


def _vocabulary(path: Path) -> "Vocabulary":
    stat = path.stat()
    return _read_vocabulary(path, stat.st_size, stat.st_mtime_ns)


@cache
def _read_vocabulary(path: Path, size: int, changed: int) -> "Vocabulary":
    """Return a file's vocabulary, which takes a second to read, once for the same bytes."""
    from factory.weights.gguf_tokens import read_vocabulary

    return read_vocabulary(path)


def find(catalog: Catalog, model: str) -> ServedModel | None:
    """Return the model of an id, whatever its case."""
    return catalog.models.get(model) or next(
        (served for name, served in catalog.models.items() if name.lower() == model.lower()), None
    )


def check_bundles(bundles: Sequence[Path]) -> None:
    """Refuse a bundle whose files are not those of its checksums.

    Raises:
        FactoryError: a file was changed or is missing.
    """
    from factory.bundle.manifest import verify_bundle

    for bundle in bundles:
        if problems := verify_bundle(bundle):
            raise FactoryError(f"{bundle} is not as exported: {problems[0]}; export it again")
