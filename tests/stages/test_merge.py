import json

import pytest
from pydantic import ValidationError

from factory import hardware
from factory.errors import MergeError
from factory.stages.merge import MergeConfig, merge
from tests.tiny import TINY_NAME, make_tiny_adapter, make_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return make_tiny_adapter(base, tmp_path_factory.mktemp("adapter"))


def test_a_folder_that_needs_no_adapter_is_written(base, adapter, tmp_path):
    counts = merge(MergeConfig(), adapter=adapter, base=base, work=tmp_path)

    assert counts["base"] == TINY_NAME
    assert counts["num_modules"] == counts["num_changed_tensors"] == 14
    assert counts["size_bytes"] == (tmp_path / "model.safetensors").stat().st_size
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= names
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"


def test_what_a_killed_run_left_is_written_over(base, adapter, tmp_path):
    merge(MergeConfig(), adapter=adapter, base=base, work=tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    merge(MergeConfig(), adapter=adapter, base=base, work=tmp_path)

    assert (tmp_path / "model.safetensors").read_bytes() == whole


def test_cheap_checks_come_before_the_model_is_loaded(base, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("factory.weights.merged.load_adapted", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "other").mkdir()
    for file in adapter.iterdir():
        (tmp_path / "other" / file.name).write_bytes(
            file.read_bytes().replace(TINY_NAME.encode(), b"another")
        )
    with pytest.raises(MergeError, match="trained on 'another'"):
        merge(MergeConfig(), adapter=tmp_path / "other", base=base, work=tmp_path)
    with pytest.raises(MergeError, match="cannot be read"):
        merge(MergeConfig(), adapter=tmp_path / "none", base=base, work=tmp_path)
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda _: 0)
    with pytest.raises(MergeError, match="0 left"):
        merge(MergeConfig(), adapter=adapter, base=base, work=tmp_path)


def test_an_adapter_without_effect_is_refused(base, tmp_path):
    folder = make_tiny_adapter(base, tmp_path / "adapter", strength=0)

    with pytest.raises(MergeError, match="changes nothing"):
        merge(MergeConfig(), adapter=folder, base=base, work=tmp_path)


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError, match="float16"):
        MergeConfig(dtype="int8")
    with pytest.raises(ValidationError, match="extra"):
        MergeConfig(type="float16")
