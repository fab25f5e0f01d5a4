"""The list of what has been built: bundles and adapters found, damaged ones shown, lineage and scores."""

import pytest

from factory import library, store
from factory.bundle.manifest import BaseIdentity, BundleFile, Gate, Manifest, Origin, Sampling
from factory.errors import UsageError
from tests.scored import make_score


def write_bundle(folder, name):
    score = {"question_set": "unseen_phrasing", "method": "closed_book", "n": 150, "low": 0.5, "high": 0.7}
    manifest = Manifest(
        name=name,
        base=BaseIdentity(name="smollm2", sha256="7" * 64, licence="apache-2.0", source="package:x"),
        system="",
        default_file="model-Q8_0.gguf",
        sampling=Sampling(num_ctx=4096, num_predict=256, temperature=0.0, stop=()),
        lineage={"dataset": Origin(key="d" * 64, content="e" * 64)},
        counts={},
        files=(BundleFile(path="model-Q8_0.gguf", bytes=1234567, sha256="f" * 64),),
        left_out=(),
        gates=(Gate(name="kl", subject="model-Q8_0.gguf", value=0.2, limit=0.1, passed=False),),
        scores=(
            make_score(model="smollm2", kind="base", accuracy=0.02, **score),
            make_score(model="adapter", kind="adapter", accuracy=0.613, **score),
        ),
    )
    folder.mkdir(parents=True)
    store.write_json(folder / "manifest.json", manifest.model_dump(mode="json"))


def write_adapter(folder):
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": "smollm2", "r": 32, "lora_alpha": 64.0}
    store.write_json(folder / "adapter_config.json", config)


@pytest.fixture
def root(tmp_path):
    write_bundle(tmp_path / "build" / "done" / "bundle", "quickstart")
    write_adapter(tmp_path / "build" / "done" / "adapter")
    write_adapter(tmp_path / "build" / "half" / "adapter")
    write_adapter(tmp_path / "adapters" / "helpdesk")
    (tmp_path / "build" / "empty" / "bundle").mkdir(parents=True)
    return tmp_path


def test_bundles_and_adapters_without_a_bundle_are_listed_once(root):
    found = [(row["name"], row["kind"], row["path"]) for row in library.find(root)]
    assert found == [
        ("helpdesk", "adapter", "adapters/helpdesk"),
        ("quickstart", "bundle", "build/done/bundle"),
        ("half", "adapter", "build/half/adapter"),
    ]


def test_the_table_shows_base_and_score(root):
    lines = library.table(library.find(root)).splitlines()
    assert len(lines) == 4
    assert "smollm2" in lines[2]
    assert "61% of 150" in lines[2]
    assert " - " in lines[1]


def test_nothing_built_says_what_to_run(tmp_path):
    assert (
        library.table(library.find(tmp_path)) == "Nothing here yet: run `factory run recipes/quickstart.yaml`"
    )


@pytest.mark.parametrize(
    "damage", ["{", "[]", "{}", '{"name": "x"}', '{"name": "x", "base": 3}', '{"name": "x", "base": {}}']
)
def test_a_damaged_bundle_is_shown_as_such_and_hides_nothing_else(root, damage):
    (root / "build" / "done" / "bundle" / "manifest.json").write_text(damage)
    rows = library.find(root)
    assert [row["kind"] for row in rows] == ["adapter", "damaged", "adapter"]
    assert rows[1]["name"] == "done"
    assert "damaged" in library.table(rows)
    assert "damaged" in library.card(rows[1])


def test_an_entry_is_found_by_name_and_by_folder(root, monkeypatch):
    monkeypatch.chdir(root)
    assert library.find_one(root, "quickstart")["kind"] == "bundle"
    assert library.find_one(root, "adapters/helpdesk")["rank"] == 32
    assert library.find_one(root, str(root / "build" / "half" / "adapter"))["name"] == "half"


def test_an_unknown_name_lists_the_known_ones(root, tmp_path):
    with pytest.raises(UsageError, match="no adapter or bundle 'helpdsk' here: half, helpdesk, quickstart"):
        library.find_one(root, "helpdsk")
    (tmp_path / "new").mkdir()
    with pytest.raises(UsageError, match="nothing has been built yet"):
        library.find_one(tmp_path / "new", "x")


def test_a_card_shows_lineage_files_gates_and_scores(root):
    card = library.card(library.find_one(root, "quickstart"))
    assert "made from  dataset     asked dddddddddddd  content eeeeeeeeeeee" in card
    assert "1,234,567 bytes  sha256 ffffffffffff" in card
    assert "FAILED" in card
    assert "61.3% [50.0%, 70.0%] n=150" in card


def test_an_adapters_card_shows_its_shape(root):
    card = library.card(library.find_one(root, "helpdesk"))
    assert card == "helpdesk (adapter)\n  path  adapters/helpdesk\n  base  smollm2\n  rank  32\n  alpha  64.0"
