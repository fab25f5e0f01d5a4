"""The page of a report: how numbers read, what is left out when nothing was measured, and how rows are ordered."""

import re

import pytest

from factory.report.model import FileSize, Report, Sample, StageTime
from factory.report.page import MAX_TEXT, render_page
from factory.scores import DocumentScore, Hedged, Share
from tests.report.test_model import EMPTY
from tests.scored import make_score


def page_of(**parts):
    """Return the page of a report that holds these parts alone, on one line."""
    return re.sub(r"\s+", " ", render_page(Report(**EMPTY | parts)))


def stage(name, seconds, memory=None):
    return StageTime(name=name, status="done", seconds=seconds, peak_memory_bytes=memory)


def score(kind, method="closed_book", model="m", question_set="user"):
    return make_score(model=model, kind=kind, question_set=question_set, method=method, n=42)


@pytest.mark.parametrize(
    ("seconds", "read"),
    [(0.04, "0.0 s"), (11.4, "11.4 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (60.0, "1 min 0 s"),
     (214.5, "3 min 34 s"), (3599.6, "1 h 0 min"),
     (7384.0, "2 h 3 min")],
)  # fmt: skip
def test_times_read_in_the_units_people_use(seconds, read):
    assert read in page_of(stages=(stage("train", seconds),))


@pytest.mark.parametrize(
    ("size", "read"),
    [
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_900, "999.9 kB"),
        (999_950, "1.0 MB"),
        (144_800_000, "144.8 MB"),
        (999_960_000, "1.0 GB"),
        (2_350_000_000, "2.4 GB"),
    ],
)
def test_memory_reads_in_decimal_units(size, read):
    assert read in page_of(stages=(stage("train", 1.0, size),))


def test_the_longest_stage_fills_its_bar_and_the_others_their_share():
    page = page_of(stages=(stage("ingest", 5.0, 100), stage("train", 20.0, 400), stage("verify", None, None)))
    widths = [float(width) for width in re.findall(r'style="width: ([0-9.]+)%', page)]
    assert widths == [25.0, 25.0, 100.0, 100.0, 0.0, 0.0]


def test_a_report_of_nothing_draws_nothing_and_says_so():
    page = page_of(verdict="The run did not finish. Nothing was measured.", failure="<b>lost</b>")
    assert "<h1>The run did not finish.</h1>" in page
    assert "&lt;b&gt;lost&lt;/b&gt;" in page
    assert "<svg" not in page


def test_bars_stand_from_the_base_over_retrieval_and_adapter_to_the_files():
    kinds = [
        score("gguf", model="model-Q4_K_M.gguf"), score("gguf", model="model-Q8_0.gguf"), score("adapter"),
        score("adapter", "rag"), score("base", "rag"), score("base"), score("endpoint", model="elsewhere"),
    ]  # fmt: skip
    page = page_of(scores=tuple(kinds))
    (told,) = re.findall(r'aria-label="Bar chart, [^:"]*: ([^"]*)\."', page)
    names = [part.rsplit(" ", 2)[0] for part in told.split("; ")]
    assert names == [
        "base", "base + retrieval", "adapter", "adapter + retrieval", "model-Q8_0", "model-Q4_K_M", "elsewhere",
    ]  # fmt: skip


def test_refusals_stand_apart_from_right_answers_and_a_dash_where_none_was_possible():
    share = Share(n=20, share=0.35, low=0.2, high=0.5)
    page = page_of(scores=(make_score(wrongly_refused=share, exact=0.27, f1=0.41),))
    cells = re.findall(r'<td class="n">([^<]*)</td>', page)
    assert cells == ["100", "50 %", "40 % to 60 %", "27 %", "41 %", "\u2013", "35 %"]


def test_what_it_declines_stands_in_a_table_of_its_own_where_that_is_known():
    assert "When it may say" not in page_of(scores=(make_score(),))
    half = Share(n=100, share=0.41, low=0.3, high=0.5)
    sure = Hedged(
        threshold=-0.834, answered=half, right=Share(n=41, share=0.63, low=0.5, high=0.8), refused=None
    )
    page = page_of(scores=(make_score(when_sure=sure),))
    assert "When it may say" in page
    row = page[page.index("sure from") :]
    for told in ("-0.83", "41 %", "63 %"):
        assert told in row


def test_documents_stand_from_the_worst_known_and_unmeasured_ones_last():
    rows = [("c.md", 5, 0.5), ("none.md", 9, None), ("b.md", 5, 0.0), ("a.md", 7, 0.5), ("z.md", 7, 1.0)]
    documents = tuple(
        DocumentScore(document=name, question_set="user", n=n, adapter=share) for name, n, share in rows
    )
    found = re.findall(r">([a-z]+\.md)<", page_of(documents=documents))
    assert found == ["b.md", "a.md", "c.md", "z.md", "none.md"]


def test_a_document_has_its_held_out_and_own_questions_apart_in_one_row():
    row = {"document": "a.md", "n": 8, "adapter": 0.25}
    page = page_of(
        documents=(
            DocumentScore(**row, question_set="unseen_phrasing", rag=0.5, rag_n=4),
            DocumentScore(document="a.md", question_set="user", n=3, adapter=1.0),
            DocumentScore(document="b.md", question_set="unseen_phrasing", n=2, adapter=0.0),
        )
    )
    table = page[page.index('aria-label="Documents"') :]
    assert re.findall(r"<b>([^<]*)</b>", table) == [
        *("0 of 2", "\u2013", "\u2013", "\u2013"),
        *("2 of 8", "2 of 4", "3 of 3", "\u2013"),
    ]
    assert re.findall(r'scope="colgroup" colspan="2">([^<]*)<', table) == [
        "held-out questions",
        "your own questions",
    ]
    widths = [float(width) for width in re.findall(r"width: ([0-9.]+)%", table)]
    assert widths == [0, 0, 0, 0, 25, 50, 100, 0]


def test_a_comparison_shows_points_interval_and_chance_and_is_coloured_when_that_is_small():
    row = {
        "question_set": "user", "model": "adapter", "method": "closed_book", "other": "b", "other_method": "rag",
        "n": 60, "documents": 9, "accuracy": 0.5, "other_accuracy": 0.25, "difference": 0.25, "low": 0.1, "high": 0.4,
        "gained": 20, "lost": 5, "p": 0.0004,
    }  # fmt: skip
    page = page_of(comparisons=(row, row | {"difference": -0.25, "p": 0.01}, row | {"p": 0.05}))
    wide = page_of(comparisons=(row | {"low": -0.1},))
    assert re.findall(r'<span class="tag ?(\w*)">([+-][0-9.]+)<', wide) == [("", "+25.0")]
    assert page.count("<bdi>b with retrieval</bdi>") == 3
    assert "<bdi>adapter with retrieval</bdi>" not in page
    both = page_of(comparisons=(row | {"method": "rag"},))
    assert "<bdi>adapter with retrieval</bdi></th><td><bdi>b with retrieval</bdi>" in both
    assert page.count("+10.0 to +40.0") == 3
    assert "&lt; 0.001" in page
    assert re.findall(r'<span class="tag ?(\w*)">([+-][0-9.]+)<', page) == [
        ("good", "+25.0"), ("bad", "-25.0"), ("", "+25.0")
    ]  # fmt: skip


def test_a_long_reply_is_cut_and_wrong_ones_stand_before_right_ones():
    def sample(reply, correct):
        return Sample(
            question="Who?", answers=("Ada",), reply=reply, correct=correct, question_set="user", model="m", source=None
        )  # fmt: skip

    page = page_of(samples=(sample("right reply", True), sample("w" * (MAX_TEXT + 1), False)))
    assert "w" * MAX_TEXT + " …" in page
    assert "w" * (MAX_TEXT + 1) not in page
    assert page.index("www") < page.index("right reply")


def test_settings_and_counts_read_in_words():
    settings = {"train": {"target_modules": ["q_proj", "v_proj"], "alpha": None, "extra": {}, "rank": 32}}
    page = page_of(
        settings=settings, counts={"adapter": {"steps": 12480, "final_loss": 0.21149, "device": "cpu"}}
    )
    for read in ("q_proj, v_proj", "12,480", "0.2115", "target modules"):
        assert read in page
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(r"alpha +none", text)
    assert re.search(r"extra +none", text)


def test_a_size_without_answers_is_listed_and_not_drawn():
    size = FileSize(
        file="model-Q8_0.gguf", bytes=144_800_000, bits_per_weight=8.5, types={"Q8_0": 3}, num_fallbacks=0, passed=None
    )  # fmt: skip
    page = page_of(sizes=(size,))
    assert "144.8 MB" in page
    assert "Scatter chart" not in page


def test_what_came_after_the_rows_has_a_chart_of_its_own():
    rows = {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}
    alone = page_of(loss=rows)
    assert ("Training loss" in alone, "Preference loss" in alone) == (True, False)
    page = page_of(loss=(*rows, {"step": 3, "loss": 0.69, "stage": "preferences"}))
    assert "training loss from 2.00 to 1.00" in page
    assert "preference loss from 0.69 to 0.69" in page
