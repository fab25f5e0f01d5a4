"""A folder with what a library lists: two bundles with reports, an adapter, and a damaged bundle."""

from factory import store
from factory.bundle.manifest import Origin, list_files, write_manifest
from factory.report.model import Report
from tests.bundle.manifests import make_manifest
from tests.scored import make_score

ONE, TWO = "one (build/one/bundle)", "two (build/two/bundle)"
HELPDESK, BAD = "helpdesk (adapters/helpdesk)", "bad (build/bad/bundle)"


def score(
    right, n=100, kind="adapter", question_set="unseen_phrasing", model="adapter", method="closed_book"
):
    return make_score(
        model=model,
        kind=kind,
        question_set=question_set,
        method=method,
        n=n,
        accuracy=right / n,
        low=0.1,
        high=0.9,
    )


def lineage(letter):
    return {name: Origin(key="0" * 64, content=letter * 64) for name in ("dataset", "adapter")}


def write_bundle(folder, **changes):
    folder.mkdir(parents=True)
    for file in ("model-Q8_0.gguf", "model-Q4_K_M.gguf", "adapter.gguf"):
        (folder / file).write_text(file)
    write_manifest(folder, make_manifest(files=list_files(folder), **changes))


def write_report(path, scores, verdict):
    empty = dict.fromkeys(Report.model_fields, ())
    empty |= dict.fromkeys(("failure", "base"), None) | {
        key: {} for key in ("counts", "settings", "packages")
    }
    report = Report(
        **empty | {"schema_version": 1, "recipe": "r", "machine": "m", "verdict": verdict, "scores": scores}
    )
    store.write_json(path, report.model_dump(mode="json"))


def write_adapter(folder):
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": "smollm2", "r": 32, "lora_alpha": 64.0}
    store.write_json(folder / "adapter_config.json", config)


def write_root(folder):
    first = (score(2, kind="base", model="smollm2"), score(60), score(50, question_set="general"))
    second = (score(5, kind="base", model="smollm2", method="rag"), score(90))
    write_bundle(folder / "build/one/bundle", name="one", scores=first, lineage=lineage("a"), system="S")
    write_report(folder / "build/one/report.json", first, "It learned <b>much</b>.")
    write_bundle(folder / "build/two/bundle", name="two", scores=second, lineage=lineage("b"))
    write_report(folder / "build/two/report.json", first, "A verdict of another run.")
    write_adapter(folder / "adapters/helpdesk")
    write_bundle(folder / "build/bad/bundle")
    (folder / "build/bad/bundle/manifest.json").write_text('{"name": "bad", "base": {}}')
    return folder
