"""The doctor: what is here, what its absence costs, and no secret on the screen."""

import pytest

from factory import doctor


def rows():
    return {row["subject"]: row for row in doctor.examine()}


def test_every_row_says_what_was_found_or_what_its_absence_costs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = rows()
    assert len(found) > 15
    for subject, row in found.items():
        assert row.keys() == {"subject", "found", "costs"}
        assert (row["found"] == "missing") == bool(row["costs"]), subject
    assert found["package torch"]["found"].startswith("2.")
    assert found["program cmake"] == {
        "subject": "program cmake", "found": "missing", "costs": "llama-cpp-python cannot be built",
    }  # fmt: skip
    assert found["CUDA"]["costs"] == "training runs on the CPU"


def test_a_program_on_the_path_is_found(tmp_path, monkeypatch):
    (tmp_path / "ollama").write_text("#!/bin/sh\n")
    (tmp_path / "ollama").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rows()["program ollama"] == {"subject": "program ollama", "found": "yes", "costs": ""}


@pytest.mark.parametrize("name", doctor.KEYS)
def test_a_key_is_reported_and_never_printed(monkeypatch, name):
    monkeypatch.setenv(name, "sk-verysecret")
    found = doctor.examine()
    assert {row["subject"]: row["found"] for row in found}[f"key {name}"] == "set"
    assert "verysecret" not in doctor.table(found)
    monkeypatch.setenv(name, "")
    missing = rows()[f"key {name}"]
    assert missing["found"] == "missing"
    assert ("endpoint" in missing["costs"]) == (name != "HF_TOKEN")


def test_prepared_bases_in_the_cache_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTER_FACTORY_CACHE", str(tmp_path))
    (tmp_path / "bases" / "qwen3-0.6b-abc").mkdir(parents=True)
    (tmp_path / "bases" / "qwen3-0.6b-abc" / "base.json").write_text("{}")
    (tmp_path / "bases" / ".preparing-x").mkdir()
    found = rows()
    assert found["base qwen3-0.6b-abc"]["found"] == "prepared"
    assert found["base smollm2-135m-instruct"]["found"] == "embedded"
    assert sum(subject.startswith("base ") for subject in found) == 2


def test_the_table_puts_the_cost_behind_what_is_missing():
    table = doctor.table(
        [
            {"subject": "CUDA", "found": "missing", "costs": "slow"},
            {"subject": "disk", "found": "1 GiB", "costs": ""},
        ]
    )
    assert [line.split() for line in table.splitlines()] == [
        ["CUDA", "missing", "→", "slow"], ["disk", "1", "GiB"],
    ]  # fmt: skip
