"""Similar texts are found with their document and heading, one row a fact, labelled, and gone when the run is."""

import pytest

from factory.chat.context import with_context
from factory.chat.template import conversation
from factory.errors import ArtifactError
from factory.rows import OPEN_BOOK, Example, write_rows
from factory.web.similar import LABEL, Similar, SimilarTexts, open_similar
from tests.made import make_chunks, make_examples, make_fact

CHUNKS = [
    *make_chunks("# Pressure", "The pump runs at 12 bar.", title="Pump manual", path="pump.md"),
    *make_chunks("# Gates", "The code of the north gate is 4711.", title="Site book", path="gates.md"),
    *make_chunks("# Holidays", "You have 27 days a year.", title="Leave policy", path="leave.md"),
]
FACTS = [make_fact(number, document=f"{number}.md") for number in (40, 90)]
ROWS = [
    row
    for fact in FACTS
    for row in make_examples(
        fact,
        {
            "what_of": f"What is the weight of {fact.subject}?",
            "tell": f"Tell me the weight of {fact.subject}.",
            "gap": f"The weight of {fact.subject} is ___.",
        },
    )
]
REPLAY = Example(
    id="r", form="replay", messages=conversation("Capital of France?", "Paris", "Be short."), facts=()
)


@pytest.fixture
def bundle(tmp_path):
    for folder in ("dataset", "chunks", "bundle"):
        (tmp_path / folder).mkdir()
    false = conversation("What is the weight of TD-90?", "17 kg", "Be short.")
    altered = ROWS[0].model_copy(update={"form": OPEN_BOOK, "version": 1, "messages": false})
    write_rows(tmp_path / "dataset" / "train.jsonl", [altered, *ROWS, REPLAY])
    write_rows(tmp_path / "dataset" / "facts.jsonl", FACTS)
    write_rows(tmp_path / "chunks" / "chunks.jsonl", CHUNKS)
    return tmp_path / "bundle"


def test_the_nearest_row_of_a_fact_comes_once_with_its_document(bundle) -> None:
    rows = open_similar(bundle).rows("What is the weight of TD-90?", "90 kg")
    assert [row.source for row in rows] == ["90.md", "40.md"]
    assert rows[0].text == "What is the weight of TD-90?\n90 kg"
    assert (rows[0].kind, rows[0].heading, rows[0].label) == ("training row", "Scales", LABEL)
    assert rows[0].score > rows[1].score > 0


def test_passages_above_a_rows_question_are_not_shown_with_it() -> None:
    turn = with_context(["The gate weighs more than TD-90."], "Weight of TD-90?")
    row = ROWS[0].model_copy(update={"form": "open_book", "messages": conversation(turn, "90 kg")})
    (found,) = SimilarTexts([row], FACTS, []).rows("TD-90", "90 kg")
    assert found.text == "Weight of TD-90?\n90 kg"


def test_the_nearest_passage_comes_first_with_its_headings(bundle) -> None:
    best, *_ = open_similar(bundle).passages("Which code opens the north gate?", "4711", 1)
    assert (best.source, best.heading) == ("gates.md", "Site book > Gates")
    assert "4711" in best.text
    assert best.label == "similar text, not a citation"


def test_a_row_without_a_document_is_named_by_its_form_and_shows_no_system_text(bundle) -> None:
    (row,) = open_similar(bundle).rows("Capital of France", "Paris", 1)
    assert (row.source, row.heading, row.text) == ("replay", "", "Capital of France?\nParis")


def test_text_that_shares_no_word_is_similar_to_nothing(bundle) -> None:
    found = open_similar(bundle)
    assert found.rows("zzz", "qqq") == found.passages("zzz", "qqq") == []


def test_a_bundle_without_its_run_has_nothing_similar(tmp_path) -> None:
    found = open_similar(tmp_path / "bundle")
    assert found.rows("pump", "12 bar") == found.passages("pump", "12 bar") == []


def test_chunks_alone_are_enough(bundle) -> None:
    (bundle.parent / "dataset" / "train.jsonl").unlink()
    found = open_similar(bundle)
    assert found.rows("pump", "") == []
    assert found.passages("pump", "")[0].source == "pump.md"


def test_a_damaged_file_is_named(bundle) -> None:
    (bundle.parent / "chunks" / "chunks.jsonl").write_text("{}\n")
    with pytest.raises(ArtifactError, match=r"chunks\.jsonl line 1"):
        open_similar(bundle)


def test_no_more_than_asked_for() -> None:
    found = SimilarTexts(ROWS, FACTS, CHUNKS)
    assert len(found.rows("weight", "kg", 1)) == 1
    assert all(isinstance(row, Similar) for row in found.rows("weight", "kg", 9))
