"""The library page: what it shows and pushes, and that a label is all a browser can name."""

import asyncio
import gc
import shlex
from pathlib import Path

import pytest

from factory.web.library_tab import build_library_tab, show_comparison, show_entry, show_library, suggest_name
from factory.web.pages import load_gradio
from tests.bundle.ollama_stub import start_stub
from tests.bundle.ollama_stub import write_bundle as write_ollama_bundle
from tests.chat.test_turns import CHATML
from tests.web.shelf_inputs import BAD, HELPDESK, ONE, TWO, write_root

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path)


def test_a_comparison_asks_for_two_entries_that_have_scores(root):
    assert "+30.0 points" in show_comparison(root, ONE, TWO)
    for pair in ((ONE, ONE), (ONE, None), (None, None), ("/etc", ONE)):
        assert "Choose two different entries." in show_comparison(root, *pair)
    assert "Neither has scores" in show_comparison(root, HELPDESK, BAD)


def test_the_list_keeps_choices_that_still_exist(root):
    shown = show_library(root, None, None, None)
    assert (shown.chosen, shown.left, shown.right) == (HELPDESK, ONE, TWO)
    assert show_library(root, TWO, TWO, ONE)[2:] == (TWO, TWO, ONE)
    assert show_library(root, "gone", "gone", "gone")[2:] == shown[2:]
    empty = show_library(root / "docs", None, None, None).table
    assert "<code>factory run recipes/quickstart.yaml</code>" in empty
    assert "&#96;" not in empty
    assert show_library(root / "docs", None, None, None)[1:] == ([], None, None, None)


def test_an_entry_comes_with_a_path_to_copy_commands_files_and_a_name(root):
    shown = show_entry(root, ONE)
    assert Path(shown.path) == root / "build/one/bundle"
    assert shown.files == ["model-Q8_0.gguf", "model-Q4_K_M.gguf"]
    assert (shown.name, suggest_name(root, ONE, "model-Q4_K_M.gguf")) == ("one", "one:q4_k_m")
    words = [shlex.split(line) for line in shown.commands.splitlines()]
    assert ["factory", "push-ollama", shown.path] in words
    assert ["tar", "-C", str(root / "build/one"), "-czf", "one.tar.gz", "bundle"] in words
    assert "Download as one file" in shown.download
    adapter = show_entry(root, HELPDESK)
    assert (adapter.files, adapter.name) == ([], "")
    assert "push-ollama" not in adapter.commands
    for entry in (shown, adapter):
        assert entry.detail.startswith('<p role="status">')


@pytest.mark.parametrize("label", [None, "", "/etc", "../..", "build/one/bundle", "one"])
def test_what_is_no_label_of_the_list_shows_nothing(root, label):
    assert show_entry(root, label)[1:] == ("", "", "", [], "")
    assert suggest_name(root, label, "model-Q8_0.gguf") == ""


def test_what_a_bundle_says_cannot_become_markup(root):
    assert "It learned &lt;b&gt;much&lt;/b&gt;." in show_entry(root, ONE).detail


@pytest.fixture
def stub():
    server, stop = start_stub()
    yield server
    stop()


@pytest.fixture(scope="module")
def gr():
    """Gradio, whose event loops are closed at the end, else a later test is blamed for them."""
    opened, new_event_loop = [], asyncio.new_event_loop

    def remembered():
        opened.append(new_event_loop())
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", remembered)
        yield load_gradio()
    asyncio.set_event_loop(None)
    for loop in opened:
        loop.close()
    gc.collect()


def build(gr, root, **options):
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(), gr.Tab("Library"):
        build_library_tab(gr, root, **options)
    return page


def test_the_tab_is_made_of_native_parts_with_private_events_only(gr, root):
    config = build(gr, root).get_config_file()
    kinds = [part["type"] for part in config["components"]]
    assert kinds.count("radio") == 4
    assert "dropdown" not in kinds
    buttons = [part["props"]["value"] for part in config["components"] if part["type"] == "button"]
    assert buttons == ["Refresh", "Push to Ollama", "Stop", "Compare"]
    triggers = [name for event in config["dependencies"] for _, name in event["targets"]]
    assert sorted(triggers) == ["click"] * 5 + ["input"] * 2 + ["load", "then"]
    assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}


def test_an_empty_project_has_a_library_page_too(gr, tmp_path):
    config = build(gr, tmp_path).get_config_file()
    shown = [part["props"].get("value") for part in config["components"]]
    assert any("Nothing has been built yet" in str(value) for value in shown)


def handler(page, name):
    (found,) = (event.fn for event in page.fns.values() if getattr(event.fn, "__name__", None) == name)
    return found


def test_refresh_finds_what_was_built_since_and_the_button_pushes_it(gr, tmp_path, stub):
    page = build(gr, tmp_path, host=stub.url)
    reload, send, choose = (handler(page, name) for name in ("reload", "send", "choose"))
    assert "Nothing has been built yet" in reload(None, None, None)[0]
    write_ollama_bundle(tmp_path / "build/run/bundle", CHATML)
    table, chosen, *_, name = reload(None, None, None)
    label = "tolvane (build/run/bundle)"
    assert label in table
    assert (chosen["choices"], chosen["value"], name) == ([label], label, "tolvane")
    assert choose(label)[4]["choices"] == ["model-Q8_0.gguf", "model-Q4_K_M.gguf"]
    lines = list(send(label, "model-Q8_0.gguf", "hr"))
    assert lines[-1] == '<p role="status">Done. Run it with: ollama run hr</p>'
    assert set(stub.models) == {"hr"}
    assert list(send("/etc", "passwd", None)) == [
        '<p role="status">Not pushed: choose a bundle and one of its files.</p>'
    ]
