import os
import shutil
import struct
from dataclasses import replace

import pytest

from factory import store
from factory.api.models import (
    EndpointSpec,
    build_catalog,
    check_bundles,
    describe,
    find,
    find_bundles,
)
from factory.bundle.manifest import list_files, read_manifest, write_manifest
from factory.errors import BaseModelError, ExportError, FactoryError
from tests.api.conftest import SYSTEM
from tests.scored import make_score
from tests.tiny import rewrite_gguf

HOSTILE = b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60) + bytes(64)


def _copy(bundle, folder, **changes):
    """Copy a bundle and write its manifest anew, checksums included."""
    shutil.copytree(bundle, folder)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"files": list_files(folder)} | changes))
    return folder


def test_adapters_of_one_base_share_one_engine_and_files_have_their_own(catalog, made):
    models = catalog.models

    assert models["gate"].engine == models["pump"].engine == models["tiny-instruct"].engine
    assert models["gate"].engine.adapters == (made.gate / "adapter.gguf", made.pump / "adapter.gguf")
    assert (models["gate"].adapter, models["pump"].adapter, models["tiny-instruct"].adapter) == (0, 1, None)
    assert models["gate:Q8_0"].engine.model == made.gate / "model-Q8_0.gguf"
    assert models["gate:Q8_0"].engine.adapters == ()
    assert models["gate"].engine.num_ctx == 4 * 256
    assert next(iter(models)) == "gate"


def test_models_carry_what_their_bundle_says(catalog, made):
    pump = catalog.models["pump"]

    assert (pump.system, pump.bundle, pump.quantization) == (SYSTEM, made.pump, "Q8_0")
    assert pump.sampling.num_predict == 32
    assert catalog.models["tiny-instruct"].system == ""
    assert pump.vocabulary.control == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert pump.vocabulary.fim is None


def test_cards_say_from_where_on_each_model_of_a_bundle_is_sure(made, tmp_path):
    hedged = {"answered": None, "right": None, "refused": None}
    lines = {"adapter": -0.2, "model-Q8_0.gguf": -0.1}
    scores = [make_score(model=name, when_sure={"threshold": at} | hedged) for name, at in lines.items()]
    bundle = _copy(made.gate, tmp_path / "bundle", scores=(make_score(model="adapter"), *scores))
    cards = {name: model.card() for name, model in build_catalog([bundle]).models.items()}

    assert (cards["gate"]["sure_from"], cards["gate:Q8_0"]["sure_from"]) == (-0.2, -0.1)
    assert "sure_from" not in cards["tiny-instruct"]


def test_cards_hold_no_path(catalog, made):
    for model in catalog.models.values():
        text = str(model.card()) + describe(model.provenance) + model.fingerprint
        assert ".gguf" not in text
        assert str(made.gate.parent) not in text


def test_an_id_is_found_in_any_case(catalog):
    assert find(catalog, "Gate:q8_0").id == "gate:Q8_0"
    assert find(catalog, "gate2") is None


def test_endpoints_take_the_stubs_place(made):
    endpoint = EndpointSpec("afar", "https://afar.example/v1", "big")
    ids = list(build_catalog([made.gate], [endpoint], with_bases=False).models)

    assert ids == ["gate:Q8_0", "afar"]
    assert list(build_catalog([]).models) == ["stub-endpoint"]


def test_of_two_bundles_with_one_name_the_first_is_served(made, tmp_path, caplog):
    twin = _copy(made.pump, tmp_path / "twin", name="gate")
    models = build_catalog([made.gate, twin, made.gate]).models

    assert models["gate"].bundle == made.gate
    assert "another bundle is called 'gate'" in caplog.text


def test_without_its_base_a_bundles_files_are_still_served(made, tmp_path, caplog):
    base = read_manifest(made.gate).base.model_copy(update={"name": "nowhere", "sha256": "0" * 64})
    lonely = _copy(made.gate, tmp_path / "lonely", name="lonely", base=base)

    assert list(build_catalog([lonely]).models) == ["lonely:Q8_0", "stub-endpoint"]
    assert "base and adapters of nowhere are not served" in caplog.text


def test_a_bundle_without_an_adapter_file_serves_base_and_files(made, tmp_path):
    merged = shutil.copytree(made.gate, tmp_path / "merged")
    (merged / "adapter.gguf").unlink()
    assert list(build_catalog([merged]).models) == ["gate:Q8_0", "tiny-instruct", "stub-endpoint"]


def test_the_served_base_is_quantized_once(made, tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path))
    folder = tmp_path / "bases" / f"tiny-instruct-{made.sha256[:12]}"
    shutil.copytree(made.base, folder)
    store.write_json(folder / "base.json", store.read_json(folder / "base.json") | {"folder": folder.name})
    build_catalog([made.gate])
    file = folder / "base-Q8_0.gguf"
    first = file.stat().st_mtime_ns

    assert build_catalog([made.gate]).models["gate"].engine.model == file
    assert file.stat().st_mtime_ns == first
    assert file.stat().st_size < (folder / "base-F16.gguf").stat().st_size


@pytest.mark.parametrize("file", ["adapter.gguf", "model-Q8_0.gguf"])
def test_a_hostile_file_is_refused_before_llama_cpp_sees_it(made, tmp_path, file):
    copy = shutil.copytree(made.gate, tmp_path / "hostile")
    (copy / file).write_bytes(HOSTILE)
    hostile = _copy(copy, tmp_path / "again")
    with pytest.raises(BaseModelError, match=f"'{file}' is not a usable GGUF file") as caught:
        build_catalog([hostile])
    assert "\n" not in str(caught.value)


def test_a_damaged_manifest_is_named(made, tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ExportError, match=r"manifest\.json is damaged"):
        build_catalog([tmp_path])
    with pytest.raises(ExportError, match="not a bundle"):
        build_catalog([tmp_path / "nothing"])


def test_a_changed_file_is_found_before_it_is_served(made, tmp_path):
    check_bundles([made.gate, made.pump])
    changed = _copy(made.gate, tmp_path / "changed")
    with (changed / "adapter.gguf").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FactoryError, match=r"adapter\.gguf: its bytes are not"):
        check_bundles([changed])


def test_bundles_are_found_where_they_are_built_newest_first(made, tmp_path):
    places = ("build/one/bundle", "adapters/two", "build/three/bundle", "build/four", "elsewhere/five/bundle")
    for age, place in enumerate(places):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "manifest.json").write_text("{}")
        os.utime(tmp_path / place / "manifest.json", (1000 - age, 1000 - age))
    (tmp_path / "adapters/empty").mkdir()

    assert find_bundles(tmp_path) == [tmp_path / place for place in places[:3]]
    assert find_bundles(tmp_path / "nothing") == []


def test_a_file_that_was_replaced_is_read_again(made, tmp_path):
    copy = _copy(made.gate, tmp_path / "copy", name="copy")
    before = build_catalog([copy], with_bases=False).models["copy:Q8_0"]
    rewrite_gguf(
        made.gate / "model-Q8_0.gguf", copy / "model-Q8_0.gguf", keys={"tokenizer.chat_template": "{{ 1 }}"}
    )
    after = build_catalog([copy], with_bases=False).models["copy:Q8_0"]

    assert before.vocabulary.template != after.vocabulary.template == "{{ 1 }}"
    assert replace(before, vocabulary=None) == replace(after, vocabulary=None)
