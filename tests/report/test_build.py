"""The report of a run: finished, failed, damaged or hostile."""

import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import pytest

from factory import pipeline, store
from factory.bundle.manifest import write_manifest
from factory.report.build import FOLDERS, gather, write_report
from factory.report.charts import accuracy_chart
from factory.report.model import Report
from factory.report.page import split_sentence
from tests.bundle.manifests import make_manifest
from tests.report.conftest import make_conflict, stage_rows, write_lines, write_run
from tests.scored import make_score

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}$\\frac{1}{0}$"


@pytest.fixture(scope="module")
def report(run_folder):
    data = write_report(run_folder, recipe_name="tolvane-works", stages=stage_rows(), failure=None)
    return data, (run_folder / "report.html").read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Collects what a page loads, and the tables without headings."""

    def __init__(self):
        super().__init__()
        self.loads, self.scripts, self.bare_tables, self.unnamed_charts = [], 0, 0, 0
        self._has_head = True

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.loads += [found[key] for key in ("src", "srcset", "action", "data") if key in found]
        self.loads += [
            found["href"] for _ in range(1) if "href" in found and not found["href"].startswith("#")
        ]
        self.scripts += tag == "script" or any(key.startswith("on") for key in found)
        self.unnamed_charts += tag == "svg" and not found.get("aria-label")
        if tag == "table":
            self._has_head = False
        if tag == "th" and found.get("scope"):
            self._has_head = True

    def handle_endtag(self, tag):
        self.bare_tables += tag == "table" and not self._has_head


def _outline(page):
    outline = Outline()
    outline.feed(page)
    return outline


def test_report_json_follows_its_schema_and_holds_the_required_keys(report, run_folder):
    data, _ = report
    assert json.loads((run_folder / "report.json").read_text()) == data
    Report.model_validate(data)
    for key in (
        "verdict",
        "scores",
        "gates",
        "stages",
        "quarantined",
        "files",
        "machine",
        "base",
        "recipe",
        "loss",
        "sizes",
    ):
        assert key in data
    assert len(data["scores"]) == 18
    assert len(data["comparisons"]) == 4 + 2 + 2 * 4  # against base and retrieval; two files on four sets
    assert len(data["gates"]) == 8
    assert data["quarantined"][0]["reason"] == "encrypted"
    assert data["conflicts"][0] == {
        "question": "What does a TD-40 cost?",
        "claims": [
            {"document": "archive/prices.xlsx", "answer": "£770", "date": "2024-03-01"},
            {"document": "sales/prices.xlsx", "answer": "£810", "date": "2026-02-03"},
        ],
        "believed": "£810",
    }
    assert 400 < len(data["loss"]) <= 500
    assert data["settings"]["corpus"]["source"] == "company"
    assert [len([s for s in data["samples"] if s["correct"] is right]) for right in (True, False)] == [10, 10]


def test_a_long_curve_is_thinned_and_the_short_one_of_preferences_is_not(tmp_path):
    (tmp_path / "adapter").mkdir()
    rows = [{"step": step, "loss": 1.0, "tokens_per_second": 9.0} for step in range(1, 2001)]
    rows += [{"step": step, "loss": 0.5, "stage": "preferences"} for step in range(2001, 2004)]
    (tmp_path / "adapter/loss.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = gather(tmp_path, recipe_name="r", stages=stage_rows("merge"), failure=None).loss
    assert [point.step for point in found if point.stage == "preferences"] == [2001, 2002, 2003]
    assert sum(point.stage == "rows" for point in found) == 500


def test_the_ten_least_learned_documents_are_listed_worst_first(report):
    data, page = report
    assert [row["loss"] for row in data["least_learned"]] == pytest.approx([2.4 - 0.2 * i for i in range(10)])
    table = page[page.index("Least learned") :]
    assert "nats a token" in table
    first = '<tr><th scope="row"><bdi>field/clock-change-march-2026.xlsx</bdi></th><td class="n">12</td>'
    assert first in table
    assert "width: 100.0%" in table[: table.index("2.200")]
    assert "suppliers/open-purchase-orders.jsonl" not in table[: table.index("</table>")]


def test_page_loads_nothing_and_names_every_chart_and_column(report):
    _, page = report
    outline = _outline(page)
    assert outline.loads == []
    assert outline.scripts == outline.bare_tables == outline.unnamed_charts == 0
    assert page.count("<svg") == 7
    assert re.findall(r"https?:|//[a-z]|@import|url\((?!#)", page) == []


def test_page_shows_the_verdict_first_and_every_section(report):
    data, page = report
    headline, rest = split_sentence(data["verdict"])
    assert f"<h1>{headline}</h1>" in unescape(page)
    assert rest in unescape(page)
    for heading in (
        "What it knows",
        "document by document",
        "more than chance",
        "admits not to know",
        "Answers in full",
        "File size",
        "gates",
        "How training went",
        "time and memory",
        "What was read",
        "settings",
    ):
        assert heading in page
    order = [
        page.index(name)
        for name in (
            "field/clock-change-march-2026.xlsx</bdi></th>",
            "suppliers/open-purchase-orders.jsonl</bdi></th>",
        )
    ]
    assert order == sorted(order)


def _disagreement(page):
    """Return the table of conflicts without tags, and what stands below it."""
    section = page[page.index('id="conflicts"') :]
    table, below = section[section.index("<tbody>") :].split("</tbody>", 1)
    return re.sub(r"<[^>]+>", " ", table).split("\n"), below[:300]


def test_conflicts_are_listed_with_documents_days_and_what_is_taught(report):
    rows = [" ".join(row.split()) for row in _disagreement(report[1])[0] if row.strip()]
    assert rows == [
        "What does a TD-40 cost? £770 in archive/prices.xlsx , 2024-03-01 £810 in sales/prices.xlsx , 2026-02-03 £810",
        "When is tea served? 10:40 in a.md 11:00 in b.md , 2026-02-03 none",
    ]


def test_a_run_without_conflicts_shows_no_table_of_them(tmp_path):
    write_lines(write_run(tmp_path) / "dataset/conflicts.jsonl", [])
    data = write_report(tmp_path, recipe_name="r", stages=stage_rows(), failure=None)
    assert data["conflicts"] == []
    assert "Where documents disagree" not in (tmp_path / "report.html").read_text()


def test_many_conflicts_and_many_claims_are_cut_on_the_page_only(tmp_path):
    many = [(f"{number}.md", f"£{number}", "") for number in range(30)]
    rows = [make_conflict(f"Question {number}?", many) for number in range(230)]
    write_lines(write_run(tmp_path) / "dataset/conflicts.jsonl", rows)
    data = write_report(tmp_path, recipe_name="r", stages=stage_rows(), failure=None)
    assert {len(conflict["claims"]) for conflict in data["conflicts"]} == {30}
    table, below = _disagreement((tmp_path / "report.html").read_text())
    assert sum("Question" in row for row in table) == 200
    assert "and 20 more" in table[1]
    assert "30 more stand in report.json" in below


def test_the_same_run_gives_the_same_page(report, run_folder):
    write_report(run_folder, recipe_name="tolvane-works", stages=stage_rows(), failure=None)
    assert (run_folder / "report.html").read_text(encoding="utf-8") == report[1]


def test_a_failed_run_gets_a_report_of_what_is_there(tmp_path):
    write_run(tmp_path)
    for name in ("adapter", "merged", "gguf", "checks", "evaluation"):
        shutil.rmtree(tmp_path / name)
    data = write_report(
        tmp_path, recipe_name="r", stages=stage_rows("train"), failure="The loss is not finite."
    )
    assert data["verdict"] == "The run did not finish. Nothing was measured."
    page = (tmp_path / "report.html").read_text()
    assert "The loss is not finite." in page
    assert "not run" in page


def test_what_an_earlier_run_left_is_not_this_runs(tmp_path):
    write_run(tmp_path)
    (tmp_path / "bundle").mkdir()
    write_manifest(tmp_path / "bundle", make_manifest())
    data = write_report(
        tmp_path, recipe_name="r", stages=stage_rows("train"), failure="The loss is not finite."
    )
    assert data["verdict"] == "The run did not finish. Nothing was measured."
    for key in (
        "scores",
        "comparisons",
        "gates",
        "files",
        "sizes",
        "documents",
        "loss",
        "recall",
        "least_learned",
        "samples",
    ):
        assert data[key] == [], key
    assert data["base"] is None
    assert set(data["counts"]) == {"corpus", "chunks", "examples", "dataset"}
    assert len(data["quarantined"]) == 3


def test_folders_are_those_of_the_pipeline():
    assert {step.stage: step.folder for step in pipeline.STEPS} == FOLDERS


def test_an_empty_folder_gets_a_report_too(tmp_path):
    data = write_report(tmp_path / "new", recipe_name="r", stages=[], failure="The source folder is empty.")
    assert data["scores"] == []
    assert "Nothing was read yet" in (tmp_path / "new/report.html").read_text()


def test_damaged_artefacts_are_reported_not_fatal(tmp_path):
    write_run(tmp_path)
    (tmp_path / "evaluation/scores.json").write_text("{")
    (tmp_path / "adapter/loss.jsonl").write_text('{"step": 1}\n')
    store.write_json(tmp_path / "gguf/quantize.json", {"files": {"model-Q8_0.gguf": {"bytes": 1}}})
    (tmp_path / "dataset/record.json").write_text("[]")
    data = write_report(tmp_path, recipe_name="r", stages=stage_rows(), failure=None)
    problems = "\n".join(data["problems"])
    for name in ("evaluation/scores.json", "adapter/loss.jsonl", "gguf/quantize.json", "dataset/record.json"):
        assert name in problems
    assert problems.count("\n") == 3


def test_bundle_files_carry_their_folder(tmp_path):
    write_run(tmp_path)
    (tmp_path / "bundle").mkdir()
    file = {"path": "model-Q8_0.gguf", "bytes": 5, "sha256": "a" * 64}
    write_manifest(tmp_path / "bundle", make_manifest(files=[file]))
    data = write_report(tmp_path, recipe_name="r", stages=stage_rows(), failure=None)
    first, *own = data["files"]
    assert first == file | {"path": "bundle/model-Q8_0.gguf"}
    assert [row["path"] for row in own] == ["bundle/manifest.json", "bundle/SHA256SUMS"]
    for row in own:
        path = tmp_path / row["path"]
        assert (row["bytes"], row["sha256"]) == (path.stat().st_size, store.hash_file(path))
    assert data["base"]["name"] == "smollm2"


def test_hostile_texts_stay_texts(tmp_path):
    write_run(tmp_path)
    for name, key in (("documents.json", "document"), ("scores.json", "model")):
        rows = store.read_json(tmp_path / "evaluation" / name)
        for row in rows:
            row[key] = ATTACK
        store.write_json(tmp_path / "evaluation" / name, rows)
    lines = [json.loads(line) for line in (tmp_path / "evaluation/answers.jsonl").read_text().splitlines()]
    for row in lines:
        row |= {"question": ATTACK, "answers": [ATTACK], "reply": ATTACK, "source": ATTACK, "model": ATTACK}
    (tmp_path / "evaluation/answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    quarantine = {"path": ATTACK, "reason": "corrupt", "detail": ATTACK}
    (tmp_path / "corpus/quarantine.jsonl").write_text(json.dumps(quarantine) + "\n")
    conflict = make_conflict(ATTACK, [(ATTACK, ATTACK, ATTACK)], believed=0)
    write_lines(tmp_path / "dataset/conflicts.jsonl", [conflict])
    write_report(
        tmp_path,
        recipe_name=ATTACK,
        stages=[
            *stage_rows(),
            {"name": ATTACK, "status": "failed", "seconds": None, "peak_memory_bytes": None},
        ],
        failure=ATTACK,
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = _outline(page)
    assert outline.scripts == 0
    assert outline.loads == []
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(1)") > 20
    assert "{{ 7*7 }}" in page


def test_a_model_name_the_measuring_font_lacks_draws_without_a_warning(report):
    score = make_score(model="模型", kind="endpoint")
    assert "模型" in accuracy_chart([score], "x")


@pytest.mark.parametrize(
    ("text", "parts"),
    [("One 0.31 of a.gguf. Two.", ("One 0.31 of a.gguf.", "Two.")), ("One.", ("One.", "")), ("", ("", ""))],
)
def test_split_sentence(text, parts):
    assert split_sentence(text) == parts
