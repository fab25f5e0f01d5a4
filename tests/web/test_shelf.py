"""What the library says of bundles and adapters: lineage, scores side by side, and the steps of a push."""

import shlex

import pytest

from factory import store
from factory.web import shelf
from tests.bundle.ollama_stub import start_stub
from tests.bundle.ollama_stub import write_bundle as write_ollama_bundle
from tests.chat.test_turns import CHATML
from tests.web.shelf_inputs import (
    BAD,
    HELPDESK,
    ONE,
    TWO,
    score,
    write_adapter,
    write_bundle,
    write_report,
    write_root,
)


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def test_the_list_shows_lineage_and_headline_of_everything_even_of_what_is_damaged(root):
    table = shelf.list_table(shelf.find_entries(root))
    assert table.head[:3] == ("Entry", "Kind", "Base")
    assert table.rows == [
        [HELPDESK, "adapter", "smollm2", "-", "-", "-", "-"],
        [BAD, "damaged", "-", "-", "-", "-", "-"],
        [ONE, "bundle", "smollm2", "7" * 12, "a" * 12, "a" * 12, "60.0% [10.0%, 90.0%] n=100"],
        [TWO, "bundle", "smollm2", "7" * 12, "b" * 12, "b" * 12, "90.0% [10.0%, 90.0%] n=100"],
    ]


def test_details_of_a_bundle_are_lineage_scores_and_files_with_hashes(root):
    entry = shelf.find_entries(root)[ONE]
    lineage, scores, files = shelf.detail_tables(entry)
    assert [lineage.title, scores.title, files.title] == ["Lineage", "Scores", "Files"]
    assert ["Base sha256", "7" * 12] in lineage.rows
    assert ["Dataset sha256", "a" * 12] in lineage.rows
    assert scores.rows[0] == ["unseen phrasing", "base", "2.0% [10.0%, 90.0%] n=100"]
    digest = store.hash_file(entry.folder / "model-Q8_0.gguf")
    assert ["model-Q8_0.gguf", "15", digest[:12]] in files.rows


def test_details_of_an_adapter_name_its_shape_and_its_record(root):
    (lineage,) = shelf.detail_tables(shelf.find_entries(root)[HELPDESK])
    assert lineage.rows == [["Base", "smollm2"], ["Rank", "32"], ["Alpha", "64.0"]]
    record = {
        "kind": "adapter", "key": "k", "content": "c" * 64, "config": {}, "inputs": {"dataset": "d" * 64},
        "code_version": 1, "counts": {}, "packages": {}, "python": "3", "seconds": 1.0, "peak_memory_bytes": 1,
    }  # fmt: skip
    store.write_json(root / "adapters/helpdesk/record.json", record)
    (lineage,) = shelf.detail_tables(shelf.find_entries(root)[HELPDESK])
    assert lineage.rows[-2:] == [["Adapter sha256", "c" * 12], ["Dataset sha256", "d" * 12]]


def test_an_adapter_without_a_bundle_has_the_scores_of_its_runs_report(root):
    write_adapter(root / "build/half/adapter")
    write_report(root / "build/half/report.json", (score(30),), "Half.")
    entry = shelf.find_entries(root)["half (build/half/adapter)"]
    assert (entry.scores, shelf.verdict(entry)) == ((score(30),), "Half.")


def test_a_verdict_is_shown_only_with_the_scores_it_speaks_of(root):
    assert shelf.verdict(shelf.find_entries(root)[ONE]) == "It learned <b>much</b>."
    assert shelf.verdict(shelf.find_entries(root)[TWO]) == ""
    (root / "build/one/report.json").write_text("{")
    assert shelf.verdict(shelf.find_entries(root)[ONE]) == ""


def test_two_bundles_stand_side_by_side_with_intervals_and_a_test(root):
    entries = shelf.find_entries(root)
    table = shelf.compare_table(entries[ONE], entries[TWO])
    assert table.head == ("Questions", "Model", ONE, TWO, "Second minus first")
    assert table.rows == [
        ["general", "adapter", "50.0% [10.0%, 90.0%] n=100", "-", "-"],
        ["unseen phrasing", "base", "2.0% [10.0%, 90.0%] n=100", "-", "-"],
        [
            "unseen phrasing",
            "adapter",
            "60.0% [10.0%, 90.0%] n=100",
            "90.0% [10.0%, 90.0%] n=100",
            "+30.0 points, significant",
        ],
        ["unseen phrasing", "base with retrieval", "-", "5.0% [10.0%, 90.0%] n=100", "-"],
    ]
    assert "different datasets" in shelf.compare_note(entries[ONE], entries[TWO])
    assert "the same dataset" in shelf.compare_note(entries[ONE], entries[ONE])


@pytest.mark.parametrize(
    ("right", "n", "said"), [(60, 100, "+0.0 points, not"), (65, 100, "+5.0 points, not"), (0, 0, "-")]
)
def test_chance_is_not_called_a_difference(right, n, said):
    other = score(right, n) if n else score(1, 1).model_copy(update={"n": 0})
    assert shelf._difference(score(60), other).startswith(said)


def test_commands_quote_names_for_the_shell(root):
    folder = root / "build/a b; rm -rf $HOME/bundle"
    write_bundle(folder, name="x'; rm y")
    (entry,) = (entry for entry in shelf.find_entries(root).values() if entry.folder == folder)
    for line in shelf.commands(entry).splitlines():
        assert {word for word in shlex.split(line) if "rm" in word} <= {
            str(folder),
            str(folder.parent),
            "x'; rm y.tar.gz",
        }


@pytest.mark.parametrize("label", [None, "", "/etc", "../..", "build/one/bundle", "one"])
def test_what_is_no_label_of_the_list_names_nothing(root, label):
    assert list(shelf.push_steps(shelf.find_entries(root).get(label), "model-Q8_0.gguf", "x")) == [
        "Not pushed: choose a bundle and one of its files."
    ]


@pytest.fixture
def stub():
    server, stop = start_stub()
    yield server
    stop()


@pytest.fixture
def pushable(tmp_path):
    write_ollama_bundle(tmp_path / "build/run/bundle", CHATML)
    return tmp_path, "tolvane (build/run/bundle)"


def test_a_push_streams_its_steps_and_ends_with_the_command(pushable, stub):
    root, label = pushable
    entry = shelf.find_entries(root)[label]
    lines = list(shelf.push_steps(entry, "model-Q4_K_M.gguf", " acme/hr:q4 ", stub.url))
    assert lines[0] == "checking model-Q4_K_M.gguf …"
    assert "sending: 0 of 0 MiB (100%)" in lines
    assert lines[-2:] == ["success …", "Done. Run it with: ollama run acme/hr:q4"]
    assert set(stub.models) == {"acme/hr:q4"}


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        ("adapter.gguf", "x", "Not pushed: choose a bundle"),
        ("../bundle/model-Q8_0.gguf", "x", "Not pushed: choose a bundle"),
        (None, "x", "Not pushed: choose a bundle"),
        ("model-Q8_0.gguf", "../x", "Not pushed: '../x' is not a model name"),
        ("model-Q8_0.gguf", "", "Not pushed: '' is not a model name"),
    ],
)
def test_a_file_or_name_that_will_not_do_is_said_and_nothing_is_sent(pushable, stub, file, name, said):
    root, label = pushable
    (line,) = shelf.push_steps(shelf.find_entries(root)[label], file, name, stub.url)
    assert line.startswith(said)
    assert stub.seen == []


def test_a_push_that_fails_on_the_way_says_why(pushable, stub):
    root, label = pushable
    stub.rows = ({"error": "no space left"},)
    *_, last = shelf.push_steps(shelf.find_entries(root)[label], "model-Q8_0.gguf", "x", stub.url)
    assert last.startswith("Not pushed: Ollama did not make the model: 'no space left'")
