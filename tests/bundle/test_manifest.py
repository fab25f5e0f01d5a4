"""Checksums and manifest of a bundle, also of one that somebody has tampered with."""

import pytest

from factory import store
from factory.bundle.manifest import MANIFEST, SUMS, list_files, verify_bundle, write_manifest
from tests.bundle.manifests import make_manifest


@pytest.fixture
def bundle(tmp_path):
    for name in ("model-Q8_0.gguf", "Modelfile"):
        (tmp_path / name).write_text(name)
    (tmp_path / "record.json").write_text("{}")
    write_manifest(tmp_path, make_manifest(files=list_files(tmp_path)))
    return tmp_path


def test_a_whole_bundle_has_no_problems_and_the_record_may_change(bundle):
    assert verify_bundle(bundle) == []
    (bundle / "record.json").write_text('{"seconds": 3}')
    assert verify_bundle(bundle) == []


def test_known_files_are_not_hashed_again(bundle):
    known = list_files(bundle)
    (bundle / "Modelfile").write_text("changed")
    assert list_files(bundle, known) == known


@pytest.mark.parametrize(
    "line", ["x  Modelfile", "a" * 64 + "  ../../etc/passwd", "a" * 64 + "  /etc/passwd", "\0"]
)
def test_checksum_lines_that_point_elsewhere_are_refused(bundle, line):
    (bundle / SUMS).write_text(line + "\n")
    assert "line 1 is not" in verify_bundle(bundle)[0]


def test_new_checksums_for_a_changed_file_contradict_the_manifest(bundle):
    (bundle / "Modelfile").write_text("FROM ./other.gguf")
    sums = (bundle / SUMS).read_text().splitlines()
    sums = [line for line in sums if not line.endswith("  Modelfile")]
    sums.append(f"{store.hash_file(bundle / 'Modelfile')}  Modelfile")
    (bundle / SUMS).write_text("\n".join(sums) + "\n")
    problems = verify_bundle(bundle)
    assert any("name different checksums" in problem for problem in problems)
    assert any("has 17 bytes" in problem for problem in problems)


def test_a_manifest_without_its_default_file_or_of_another_version_is_named(bundle):
    write_manifest(bundle, make_manifest(files=list_files(bundle), default_file="gone.gguf"))
    assert verify_bundle(bundle) == [f"gone.gguf: the bundle needs it and {MANIFEST} does not list it"]
    (bundle / MANIFEST).write_text('{"schema_version": 2}')
    assert "damaged or of another version" in verify_bundle(bundle)[0]


def test_missing_checksums_are_named(bundle):
    (bundle / SUMS).unlink()
    assert "no readable SHA256SUMS" in verify_bundle(bundle)[0]
