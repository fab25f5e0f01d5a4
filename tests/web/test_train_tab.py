"""The Train tab: what a browser may send is checked, and what it gets is what the queue says."""

import asyncio
import gc
import sys
import time

import pytest

from factory.web.jobs import JobQueue
from factory.web.train_tab import build_train_tab

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
RUN = """
import json, pathlib
bundle = pathlib.Path("build/handbook/bundle")
bundle.mkdir()
(bundle / "manifest.json").write_text("{}")
(bundle.parent / "report.json").write_text(json.dumps({"verdict": "It answers 64 %."}))
"""


@pytest.fixture(scope="module", autouse=True)
def _closed_loops():
    """Close the event loops that gradio opens for its locks and leaves behind, else a later test is blamed."""
    opened, new_event_loop = [], asyncio.new_event_loop

    def remembered():
        opened.append(new_event_loop())
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", remembered)
        yield
    asyncio.set_event_loop(None)
    for loop in opened:
        loop.close()
    gc.collect()


@pytest.fixture(scope="module")
def gr():
    """The gradio module, with its analytics off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        import gradio

        yield gradio


@pytest.fixture
def queue(tmp_path):
    (tmp_path / "recipes").mkdir()
    for name in ("long", "documents"):
        (tmp_path / f"recipes/{name}.yaml").write_text(f"name: {name}\ningest: {{source: x}}\n")
    (tmp_path / "plan.md").write_text("# Plan")
    queue = JobQueue(tmp_path / "build", tmp_path, lambda *_: [sys.executable, "-c", RUN])
    yield queue
    queue.close()


@pytest.fixture
def page(gr, queue):
    """A page that holds the tab, the tab, and what `on_done` was called with."""
    return make_page(gr, queue)


def make_page(gr, queue):
    done = []
    with gr.Blocks(analytics_enabled=False) as blocks, gr.Tabs(), gr.Tab("Train"):
        tab = build_train_tab(gr, queue, done.append)
    return blocks, tab, done


def handler(page, label, event="click"):
    """The function behind a component's event, with its numbers of inputs and outputs."""
    blocks = page[0]
    for function in blocks.fns.values():
        for target, name in function.targets:
            component = blocks.blocks[target]
            if name == event and label in (
                getattr(component, "value", None),
                getattr(component, "label", None),
            ):
                return function
    raise AssertionError(label)


def test_every_event_is_private_and_every_control_has_words(page):
    blocks = page[0]
    assert {function.api_visibility for function in blocks.fns.values()} == {"private"}
    assert len(blocks.fns) == 6
    shown = [
        block for block in blocks.blocks.values() if block.get_block_name() not in {"html", "state", "timer"}
    ]
    buttons = [block.value for block in shown if block.get_block_name() == "button"]
    assert buttons == ["Train", "Cancel this run", "Retry this run"]
    fields = [
        block.label for block in shown if block.get_block_name() in {"file", "textbox", "number", "radio"}
    ]
    assert len(fields) == 6
    assert all(fields)
    assert page[1].timer.value == 2


def test_recipes_are_chosen_by_label_and_the_one_for_own_documents_is_chosen_first(page):
    recipe = next(block for block in page[0].blocks.values() if getattr(block, "label", None) == "Recipe")
    assert (recipe.value, [value for _, value in recipe.choices]) == ("documents", ["documents", "long"])


def test_an_empty_queue_stops_the_timer(page):
    values = page[1].refresh(None)
    assert len(values) == len(page[1].outputs)
    assert values[-1].active is False
    assert "No training run yet" in values[3]


def test_a_run_is_asked_for_watched_and_handed_over(page, queue, tmp_path):
    _, tab, done = page
    train = handler(page, "Train")
    values = train.fn([str(tmp_path / "plan.md")], "handbook", "long", 3)
    assert len(values) == len(train.outputs)
    assert values[:2] == (None, "")
    assert values[2].value == "handbook"
    deadline = time.monotonic() + 60
    while queue.get("handbook").active and time.monotonic() < deadline:
        time.sleep(0.05)
    runs, listed, finished, state, cancel, retry, stages, loss, documents, log, command, timer = tab.refresh(
        "handbook"
    )
    assert runs.choices[0][0].startswith("handbook: done, long, 20")
    assert finished == ("handbook",)
    assert "handbook is done. It answers 64 %. The model is now in Compare." in state
    assert (cancel.interactive, retry.interactive, timer.active) == (False, False, False)
    assert "<td>train</td><td>done</td>" in stages
    assert "--set train.epochs=3 --out build/handbook" in command
    assert "once training has begun" in loss
    assert "Read: 0" in documents
    assert "factory run" in log
    assert [job.id for job in done] == ["handbook"]
    again = tab.refresh("handbook", listed)
    assert not hasattr(again[0], "choices")  # the same list is not sent again


def test_what_cannot_be_is_an_error_that_is_shown_as_text(gr, page, queue):
    train = handler(page, "Train").fn
    with pytest.raises(gr.Error, match=r"name '&lt;b&gt;x' cannot be used"):
        train(["/etc/passwd"], "<b>x", "long", None)
    with pytest.raises(gr.Error, match="no recipe '/etc/passwd'"):
        train([], "x", "/etc/passwd", None)
    with pytest.raises(gr.Error, match="no documents"):
        train(None, "x", "long", None)
    for label in ("Cancel this run", "Retry this run"):
        with pytest.raises(gr.Error, match="no training run"):
            handler(page, label).fn("../../etc")
    assert queue.jobs() == []


def test_added_files_are_looked_at_before_a_run(page, tmp_path):
    (tmp_path / "empty.md").write_text("")
    preview = handler(page, "Documents", "change").fn
    tables = preview([str(tmp_path / "plan.md"), str(tmp_path / "empty.md")])
    assert "Will not be read: 1" in tables
    assert "<td>empty.md</td><td>The file is empty</td>" in tables
    assert "<td>plan.md</td><td>6 bytes</td>" in tables
    assert preview(None) == ""


def test_a_call_that_names_a_file_that_was_not_uploaded_does_not_reach_the_queue(
    gr, queue, tmp_path, monkeypatch
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    upload = tmp_path / "uploads/plan.md"
    upload.write_text("# Plan")
    page = make_page(gr, queue)
    train = handler(page, "Train")

    def call(path: str, name: object = "handbook") -> list:
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return asyncio.run(page[0].preprocess_data(train, [[data], name, "long", 1], None))

    assert [str(file) for file in call(str(upload))[0]] == [str(upload)]
    for path in (str(tmp_path / "plan.md"), "/etc/passwd", "http://127.0.0.1:9/x"):
        with pytest.raises(gr.Error, match="was not uploaded"):
            call(path)
    with pytest.raises(gr.Error, match="was not uploaded"):
        call(str(upload), {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}})
    copied = [path.read_text() for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
    assert set(copied) <= {"# Plan", ""}  # gradio itself leaves an empty file behind


def test_documents_of_a_job_do_not_stay_among_the_uploads(page, queue, tmp_path):
    handler(page, "Train").fn([str(tmp_path / "plan.md")], "handbook", "long", 0)
    assert not (tmp_path / "plan.md").exists()
    assert (tmp_path / "build/handbook/docs/plan.md").read_text() == "# Plan"
    assert queue.get("handbook").epochs is None
