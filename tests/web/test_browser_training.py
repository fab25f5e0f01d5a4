"""Documents dropped into the Train tab become a model that answers in Compare: a real run on the embedded base."""

import time

import pytest
from playwright.sync_api import expect

from factory.api.models import build_catalog, find_bundles
from factory.api.router import Router
from tests.web.browser import answers, ask, choose, closed_loops, notes, open_tab, running_site, status
from tests.web.conftest import keep_screenshot

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
MINUTES = 25
RECIPE = """
name: small
base: smollm2-135m-instruct
ingest: {source: docs}
curate: {test_questions: 10, valid_questions: 5}
train: {first_layer: 26, wordings: 1, rank: 8}
quantize: {types: [Q8_0], imatrix_tokens: 0}
verify: {min_same_top_8bit: 0.5, max_divergence_8bit: 1.0}
evaluate: {general_questions: 0, rag: false, max_answer_tokens: 8}
"""
HARBOUR = """# Harbour of Skerrin

The harbour master of Skerrin is Ada Vennor. The harbour office opens at 6:40. The north pier is 212 metres long.
The mooring fee is 14 marks a night. The lighthouse of Skerrin was built in 1867.

| Berth | Depth | Keeper |
| --- | --- | --- |
| North berth | 4.5 m | Ilse Korden |
| South berth | 3.2 m | Tamas Rell |
| Quarry berth | 6.1 m | Bran Ostley |
"""
WORKSHOP = """# Workshop rules

The workshop is led by Pirren Holt. The paint store is locked at 18:20. The lathe was bought in 2011.
The first-aid box is kept in room W4. The warranty on a hull lasts 30 months.

| Tool | Place | Inspection |
| --- | --- | --- |
| Band saw | bay 2 | every 90 days |
| Steam box | bay 5 | every 60 days |
| Chain hoist | bay 7 | every 45 days |
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The playground of a project with a short recipe and nothing built, as `factory serve` builds it."""
    root = tmp_path_factory.mktemp("project")
    (root / "recipes").mkdir()
    (root / "recipes" / "small.yaml").write_text(RECIPE)

    def catalog():
        return build_catalog(find_bundles(root))

    with pytest.MonkeyPatch.context() as patch, closed_loops():
        patch.setenv("GRADIO_TEMP_DIR", str(root / "uploads"))
        with running_site(Router(catalog(), renewed=catalog), root) as site:
            yield site
            for job in site.queue.jobs():
                if job.active:
                    site.queue.cancel(job.id)
            while any(job.active for job in site.queue.jobs()):
                time.sleep(0.2)


@pytest.fixture
def documents(tmp_path):
    """Two documents, and one that is damaged."""
    (tmp_path / "harbour.md").write_text(HARBOUR)
    (tmp_path / "workshop.md").write_text(WORKSHOP)
    (tmp_path / "broken.docx").write_bytes(b"PK\x03\x04 cut off")
    return sorted(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(MINUTES * 60)
def test_documents_dropped_into_the_train_tab_become_a_model_in_compare(page, site, documents, request):
    expect(page.locator("#pane-1")).not_to_contain_text("skerrin")
    open_tab(page, "Train")
    page.locator("input[type=file]:not([webkitdirectory])").first.set_input_files(documents)
    expect(page.get_by_role("table", name="Will be read: 2")).to_contain_text("harbour.md")
    expect(page.get_by_role("table", name="Will not be read: 1")).to_contain_text("broken.docx")
    page.get_by_label("Name of the model").fill("skerrin")
    page.get_by_label("Quick look: number of epochs").fill("40")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator("#train-command textarea")).to_have_value(
        "factory run recipes/small.yaml --set 'name=\"skerrin\"' --set 'ingest.source=\"build/skerrin/docs\"' "
        "--set 'ingest.include=[\"**\"]' --set evaluate.questions=null --set train.epochs=40 --out build/skerrin",
        timeout=20_000,
    )
    (job,) = site.queue.jobs()
    while site.queue.get(job.id).active:
        page.wait_for_timeout(1000)
    log = (site.root / "build" / "skerrin" / "log.txt").read_text()
    assert site.queue.get(job.id).state == "done", log[-3000:]

    expect(page.get_by_role("tab", name="Compare")).to_have_attribute(
        "aria-selected", "true", timeout=120_000
    )  # where the new model stands beside the base
    expect(page.locator("#pane-2").get_by_label("skerrin", exact=True)).to_be_checked()
    open_tab(page, "Train")
    for text in ("workshop.md", "broken.docx", "It is damaged or not what its name says"):
        expect(page.get_by_text(text).first).to_be_visible()
    expect(page.get_by_role("table", name="Stages")).to_contain_text("export")
    expect(page.locator("svg[role=img]")).to_be_visible()
    keep_screenshot(page, f"{request.node.name}-train")

    open_tab(page, "Compare")
    model = page.locator("#pane-1").get_by_label("skerrin", exact=True)
    expect(model).to_be_visible(timeout=120_000)
    choose(page, 1, "skerrin")
    choose(page, 2, "smollm2-135m-instruct")
    ask(page, "Who is the harbour master of Skerrin?")
    for pane in (1, 2):
        expect(status(page, pane)).to_contain_text("Done in", timeout=120_000)
        assert answers(page, pane).inner_text().strip()
    expect(notes(page, 1)).to_contain_text("+ adapter")

    open_tab(page, "Library")
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("tabpanel").get_by_role("table").first).to_contain_text("skerrin")
    keep_screenshot(page, f"{request.node.name}-library")
