"""What editions of a document answer differently is found and settled; documents on other things are left alone."""

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.facts import extract
from factory.facts.conflicts import Refuted, name_of, settle
from factory.facts.extract import Draft
from factory.facts.phrasing import Ask
from factory.rows import Chunk, Evidence
from tests.made import make_chunks, make_fact

ALL = ["£770", "£810", "£990"]


def document(path: str, *blocks, title: str = "Price list", **metadata: str) -> list[Chunk]:
    made = make_chunks(*blocks, path=path, title=title)
    return [chunk.model_copy(update={"metadata": metadata}) for chunk in made]


def prices(path: str, price: str, title: str = "Price list", **metadata: str) -> list[Chunk]:
    return document(path, (("Model", "Price"), ("TD-40", price)), title=title, **metadata)


OLD = prices("archive/prices.xlsx", "£770", modified="2024-03-01", created="2026-01-01")
NEW = prices("sales/prices.xlsx", "£810", date="2026-02-03T09:00:00")
DRAFT = prices("drafts/prices.md", "£990")


def settled(*documents, rule="newest", folders=()):
    rows = [chunk for document in documents for chunk in document]
    drafts = [draft for chunk in rows for draft in extract.drafts(chunk)]
    kept, conflicts = settle(drafts, rows, rule, folders)
    return [draft.fact for draft in kept], conflicts


def old_and_new(one: str, other: str):
    return settled(prices("a.md", one, date="2024-03-01"), prices("b.md", other, date="2026-02-03"))


def answers(facts) -> list[str]:
    return [fact.answer for fact in facts]


def believed(conflict) -> str | None:
    return next((claim.fact.answer for claim in conflict.claims if claim.fact.id == conflict.believed), None)


def test_the_newest_day_is_believed_whatever_the_order() -> None:
    for order in ((OLD, NEW), (NEW, OLD)):
        kept, (conflict,) = settled(*order)
        assert answers(kept) == ["£810"]
        assert believed(conflict) == "£810"
        told = {(claim.fact.evidence.document, claim.fact.answer, claim.date) for claim in conflict.claims}
        assert told == {
            ("archive/prices.xlsx", "£770", "2024-03-01"),
            ("sales/prices.xlsx", "£810", "2026-02-03"),
        }
        assert conflict.question == "How much does TD-40 cost?"


@pytest.mark.parametrize("stated", [{}, {"date": "3 February"}, {"date": "2026-99-99"}])
def test_where_a_document_states_no_day_none_is_believed(stated: dict[str, str]) -> None:
    kept, (conflict,) = settled(OLD, NEW, prices("drafts/prices.md", "£990", **stated))
    assert (answers(kept), conflict.believed) == (ALL, None)


def test_of_two_that_disagree_on_the_newest_day_none_is_believed() -> None:
    kept, (conflict,) = settled(OLD, NEW, prices("b.md", "£990", date="2026-02-03"))
    assert (answers(kept), conflict.believed) == (ALL, None)


@pytest.mark.parametrize(
    ("folders", "right"),
    [
        (("drafts", "archive"), "£990"),
        (("archive/",), "£770"),
        (("./archive",), "£770"),
        (("nowhere",), None),
        (("sale",), None),
        (("archive/prices.xlsx",), None),
    ],
)
def test_the_first_folder_is_believed(folders: tuple[str, ...], right: str | None) -> None:
    kept, (conflict,) = settled(OLD, NEW, DRAFT, rule="folders", folders=folders)
    assert believed(conflict) == right
    assert answers(kept) == ([right] if right else ALL)


@pytest.mark.parametrize("rule", ["none", "ask"])
def test_without_a_rule_conflicts_are_found_and_nobody_is_believed(rule: str) -> None:
    kept, (conflict,) = settled(OLD, NEW, rule=rule)
    assert (answers(kept), conflict.believed) == (ALL[:2], None)


SAME_NAME = (
    ("Price list", "The price list"),
    ("Price list 2024", "Price list 2026"),
    ("Price list 2024", "2026 price list"),
    ("Price list", "Price list (old)"),
    ("Price list", "Price list - DRAFT"),
    ("Price list", "Draft price list v2"),
    ("Price list", "Copy of Price list"),
    ("Price list v1.2", "Price list, version 2 (2026)"),
    ("Price list, rev. 3", "Price list 2nd edition"),
)
OTHER_NAME = (
    ("TD-40 spares", "TD-90 spares"),
    ("TD-2010", "TD-2020"),
    ("Spares TD 2010", "Spares TD 2020"),
    ("Spares for TD-2010", "Spares for TD-2020"),
    ("Osprey 2010 manual", "Osprey 2020 manual"),
    ("Minutes March 2025", "Minutes March 2026"),
    ("Board minutes 2025", "Board minutes 2026"),
    ("Bells in week 12 2025", "Bells in week 12 2026"),
    ("Results Q1 2025", "Results Q1 2026"),
    ("Price list", "Price list UK"),
    ("Price list 1", "Price list 2"),
    ("2024", "2026"),
    ("Draft", "Final"),
    ("???", "!!!"),
)


@pytest.mark.parametrize(("one", "other"), SAME_NAME)
def test_editions_of_one_document_disagree(one: str, other: str) -> None:
    kept, conflicts = settled(
        prices("a.md", "£770", title=one, date="2024-03-01"),
        prices("b.md", "£810", title=other, date="2026-02-03"),
    )
    assert (answers(kept), len(conflicts)) == (["£810"], 1)


@pytest.mark.parametrize(("one", "other"), OTHER_NAME)
def test_like_tables_under_other_titles_stay(one: str, other: str) -> None:
    table = (("Part", "Price"), ("Pawl spring", "{}"))
    made = [
        document(path, ((table[0]), ("Pawl spring", price)), title=title, date=day)
        for path, price, title, day in (
            ("a.md", "£770", one, "2024-03-01"),
            ("b.md", "£810", other, "2026-02-03"),
        )
    ]
    kept, conflicts = settled(*made)
    assert (answers(kept), conflicts) == (["£770", "£810"], [])


def test_a_name_stays_where_it_is_all_there_is() -> None:
    assert [name_of(title) for title in ("Draft 2024", "2024", "v2", "")] == ["draft", "2024", "v 2", ""]


TITLES = st.text("ab 2024v()old-", max_size=14)
PLACES = st.lists(st.tuples(TITLES, st.sampled_from(("1", "2", "£3", "4 kg"))), min_size=1, max_size=6)


@given(PLACES, st.sampled_from(("newest", "folders")))
@settings(max_examples=200, deadline=None)
def test_no_fact_of_a_document_with_a_title_of_its_own_is_dropped(places, rule: str) -> None:
    chunks, drafts = [], []
    for number, (title, answer) in enumerate(places):
        path = f"{number}/a.md"
        fact = make_fact(1, answer, document=path)
        fact = fact.model_copy(update={"id": path, "topic": title})
        drafts.append(Draft(fact, (Ask("what_of", "How heavy is TD-1?"),)))
        day = {"date": f"2026-01-{number + 1:02}"}
        chunks.append(prices(path, answer, **day)[0].model_copy(update={"title": title}))
    kept, _ = settle(drafts, chunks, rule, ("0",) if rule == "folders" else ())
    names = Counter(name_of(title) for title, _ in places)
    own = [draft for draft, (title, _) in zip(drafts, places, strict=True) if names[name_of(title)] == 1]
    assert [draft for draft in own if draft not in kept] == []
    assert len({draft.fact.topic for draft in kept}) <= len(kept) <= len(drafts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("£770", "£770 (2026)"),
        ("£770", "From the £770 line"),
        ("£770", "770 pounds"),
        ("£1,000", "£1000.00"),
        ("five days", "5 days"),
        ("2024-04-21", "21st of April 2024"),
        ("Ada Tolvane", "Dr Ada Tolvane"),
        ("10-12", "10 to 12"),
    ],
)
def test_the_same_in_other_words_is_no_conflict(one: str, other: str) -> None:
    kept, conflicts = old_and_new(one, other)
    assert conflicts == []
    assert answers(kept) == [one, other]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("£770", "$770"),
        ("5 days", "5 weeks"),
        ("Grade A", "Grade B"),
        ("Allowed", "Not allowed"),
        ("3", "-3"),
    ],
)
def test_what_only_looks_alike_is_a_conflict(one: str, other: str) -> None:
    kept, conflicts = old_and_new(one, other)
    assert (answers(kept), len(conflicts)) == ([other], 1)


def test_of_what_agrees_with_the_believed_answer_one_wording_is_kept() -> None:
    kept, (conflict,) = settled(OLD, prices("b.md", "£810 (list)", date="2025-01-01"), NEW)
    assert answers(kept) == ["£810"]
    assert len(conflict.claims) == 3


def test_what_one_document_says_in_two_ways_is_no_conflict_between_documents() -> None:
    twice = prices("archive/prices.xlsx", "£780", modified="2024-03-01")
    assert settled(OLD, twice)[1] == []
    kept, conflicts = settled(OLD, twice, NEW)
    assert (answers(kept), conflicts) == (["£770", "£780", "£810"], [])


def test_what_a_document_says_of_itself_is_no_conflict() -> None:
    made = [
        document(f"{day}.md", f"Version: {day}", f"Date: {day}", f"Currency: {money}", title="Price list", date=day)
        for day, money in (("2024-03-01", "GBP"), ("2026-02-03", "EUR"))
    ]  # fmt: skip
    kept, (conflict,) = settled(*made)
    assert believed(conflict) == "EUR"
    assert "GBP" not in answers(kept)
    assert {"2024-03-01", "2026-02-03"} <= set(answers(kept))


def test_facts_under_other_headings_are_not_compared() -> None:
    table = (("Part", "Price"), ("Pawl spring", "£770"))
    other = (("Part", "Price"), ("Pawl spring", "£810"))
    made = (
        document("a.md", "# Heron", table, date="2024-03-01"),
        document("b.md", "# Osprey", other, date="2026-02-03"),
    )
    assert settled(*made)[1] == []


REPEATED = (
    (("Model", "Price"), ("TD-40", "£770")),
    "The TD-40 costs £770 and weighs 4.6 kg. The TD-90 weighs 31 kg.",
    "# Summary",
    (("Model", "Price", "Weight"), ("TD-40", "£770", "4.6 kg")),
)


def test_what_is_not_believed_is_not_told_again_in_other_words_or_places() -> None:
    old = document("old.md", *REPEATED, date="2024-03-01")
    kept, (conflict,) = settled(old, NEW)
    assert believed(conflict) == "£810"
    assert not [fact for fact in kept if "770" in f"{fact.subject} {fact.relation} {fact.answer}"]
    assert {"31 kg", "4.6 kg", "£810"} <= set(answers(kept))
    assert {"£770", "31 kg", "4.6 kg"} <= set(answers(settled(old)[0]))


def test_a_stretch_that_overlaps_a_refuted_statement_tells_it() -> None:
    sentence = "The fee for lost keys is £25."
    old = document("old.md", sentence, "Other words stand here today.", date="2024-03-01")
    new = document("new.md", sentence.replace("25", "31"), date="2026-02-03")
    refuted = Refuted(settled(old, new)[1])
    span = old[0].elements[0]
    for start, end, told in (
        (span.start, span.end, True),
        (span.start + 3, span.end + 9, True),
        (90, 99, False),
    ):
        piece = Evidence(document="old.md", start=start, end=end, text="no such words")
        assert refuted.tells(piece) == told
        assert not refuted.tells(piece.model_copy(update={"document": "new.md"}))
    again = Evidence(
        document="old.md", start=500, end=560, text="We said that the fee for lost keys was £25."
    )
    assert refuted.tells(again)


def _many(subjects: int, documents: int) -> tuple[list[Draft], list[Chunk]]:
    drafts, chunks = [], []
    for document_number in range(documents):
        path = f"{document_number}.md"
        day = "2026-02-01" if document_number == 0 else "2025-01-01"
        chunks += prices(path, "£1", date=day)[:1]
        for number in range(subjects):
            answer = f"{document_number + 7} kg"
            fact = make_fact(number, answer, document=path, kind=("table", "sentence")[number % 2])
            fact = fact.model_copy(update={"id": f"{path}/{number}", "topic": "Price list"})
            drafts.append(Draft(fact, (Ask("what_of", f"How heavy is TD-{number}?"),)))
    return drafts, chunks


@pytest.mark.parametrize(("subjects", "documents"), [(10_000, 2), (200, 100), (1, 20_000)])
def test_twenty_thousand_facts_are_settled_at_once(subjects: int, documents: int) -> None:
    drafts, chunks = _many(subjects, documents)
    started = time.process_time()
    kept, conflicts = settle(drafts, chunks, "newest", ())
    assert time.process_time() - started < 6  # about one second, and an hour for all pairs
    assert len(conflicts) == subjects
    assert len(kept) < len(drafts)
