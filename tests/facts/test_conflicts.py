"""What documents answer incompatibly is found, and settled by the day they state, by folder, or not at all."""

import pytest

from factory.facts import extract
from factory.facts.conflicts import dates_of, settle
from tests.made import make_chunks


def chunks(path: str, price: str, **metadata: str):
    table = (("Model", "Price"), ("TD-40", price))
    made = make_chunks(table, path=path, title="Price list")
    return [chunk.model_copy(update={"metadata": metadata}) for chunk in made]


OLD = chunks("archive/prices.xlsx", "£770", modified="2024-03-01", created="2026-01-01")
NEW = chunks("sales/prices.xlsx", "£810", date="2026-02-03T09:00:00")
DRAFT = chunks("drafts/prices.md", "£990")
ALL = ["£770", "£810", "£990"]


def settled(*documents, rule="newest", folders=()):
    rows = [chunk for document in documents for chunk in document]
    drafts = [draft for chunk in rows for draft in extract.drafts(chunk)]
    kept, conflicts = settle(drafts, dates_of(rows), rule, folders)
    return [draft.fact.answer for draft in kept], conflicts


def test_the_newest_day_is_believed_whatever_the_order() -> None:
    for order in ((OLD, NEW), (NEW, OLD)):
        kept, (conflict,) = settled(*order)
        assert kept == ["£810"]
        assert conflict.believed == "£810"
        assert {(claim.document, claim.answer, claim.date) for claim in conflict.claims} == {
            ("archive/prices.xlsx", "£770", "2024-03-01"),
            ("sales/prices.xlsx", "£810", "2026-02-03"),
        }
        assert "TD-40" in conflict.question


def test_where_a_document_has_no_day_none_is_believed() -> None:
    kept, (conflict,) = settled(OLD, NEW, DRAFT)
    assert (kept, conflict.believed) == (ALL, None)


@pytest.mark.parametrize(
    ("folders", "believed"),
    [
        (("drafts", "archive"), "£990"),
        (("archive/",), "£770"),
        (("nowhere",), None),
        (("sale",), None),
        (("archive/prices.xlsx",), None),
    ],
)
def test_the_first_folder_is_believed(folders: tuple[str, ...], believed: str | None) -> None:
    kept, (conflict,) = settled(OLD, NEW, DRAFT, rule="folders", folders=folders)
    assert conflict.believed == believed
    assert kept == ([believed] if believed else ALL)


def test_without_a_rule_conflicts_are_found_and_nobody_is_believed() -> None:
    kept, (conflict,) = settled(OLD, NEW, rule="none")
    assert (kept, conflict.believed) == (ALL[:2], None)


@pytest.mark.parametrize("answer", ["£770", "£770 (2026)", "From the £770 line"])
def test_the_same_price_in_other_words_is_no_conflict(answer: str) -> None:
    kept, conflicts = settled(OLD, chunks("sales/prices.xlsx", answer, date="2026-02-03"))
    assert conflicts == []
    assert len(kept) == 2


def test_what_one_document_says_twice_is_no_conflict_between_documents() -> None:
    assert settled(OLD, chunks("archive/prices.xlsx", "£780", modified="2024-03-01"))[1] == []
