"""Facts from tables, fields, headings and sentences: grounded, fair to ask, and safe on hostile text."""

import random
import re
import time

import pytest

from factory.facts import extract
from factory.facts.phrasing import REVERSE_FORMS, answer_of
from factory.readers.contract import Cells
from factory.rows import Chunk, Element
from factory.text import normalize
from tests.made import draft_all, make_document

TABLE = (
    ("Model", "Weight", "Price", "Bay"),
    ("TD-40", "4.6 kg", "£770", "Larch 7"),
    ("TD-90", "31 kg", "£2,140", "Elm 2"),
    ("TD-210", "n/a", "£9,800", "Elm 2"),
)
PROSE = (
    "# Hours",
    "The workshop opens at 07:30. Lost keys cost £31, and Petra Lindqvarn keeps the spare set in Skelbeck.",
    "# Can you silence the bells at night?",
    "Yes. The MC-7 has a programme called Mute at Night, silent from 22:00.",
    "Extension: 614",
    TABLE,
)


def _hostile_chunk(text: str, kind: str = "paragraph") -> Chunk:
    cells = (("Key", "Value"), (text[:50], text)) if kind == "table" else None
    element = Element(
        kind=kind, text=text, start=0, end=len(text), heading_path=(text[:20] + "?",), cells=cells
    )
    return Chunk(
        id="0",
        document="a.txt",
        title=text[:30],
        heading_path=element.heading_path,
        text=text,
        start=0,
        end=len(text),
        num_tokens=1,
        elements=(element,),
    )


def test_every_kind_of_element_states_facts() -> None:
    kinds = {draft.fact.kind for draft in draft_all(*PROSE)}
    assert kinds == {"table", "field", "faq", "sentence"}


def test_evidence_is_a_span_of_the_document_and_holds_the_answer() -> None:
    document = make_document(*PROSE)
    drafts = draft_all(*PROSE)
    assert len(drafts) > 15
    for draft in drafts:
        evidence = draft.fact.evidence
        assert document.text[evidence.start : evidence.end] == evidence.text
        for ask in draft.asks:
            assert normalize.contains(evidence.text, answer_of(ask, draft.fact)), ask


def test_no_question_is_empty_doubled_or_holds_its_answer() -> None:
    for draft in draft_all(*PROSE):
        questions = [ask.question for ask in draft.asks]
        assert len({normalize.normalize(question) for question in questions}) == len(questions)
        for ask in draft.asks:
            assert ask.question == " ".join(ask.question.split())
            assert normalize.normalize(ask.question)
            assert not normalize.contains(ask.question, answer_of(ask, draft.fact)), ask
            # A reverse question names the value and is answered by the subject: nothing else may say the value.
            if ask.form not in REVERSE_FORMS:
                assert not normalize.contains(ask.question, draft.fact.answer), ask


def test_a_title_that_gives_the_answer_away_takes_only_those_questions_with_it() -> None:
    sites = (("Place", "Town"), ("Works", "Skelbeck"), ("Depot", "Brannoch"))
    (draft,) = [draft for draft in draft_all(sites, title="Skelbeck sites") if draft.fact.subject == "Works"]
    forms = {ask.form for ask in draft.asks}
    assert "title" not in forms
    assert {"what_of", "reverse", "indirect"} <= forms


def test_a_table_cell_is_asked_for_by_row_and_column() -> None:
    facts = {(d.fact.subject, d.fact.relation): d for d in draft_all(TABLE)}
    assert ("TD-210", "Weight") not in facts
    assert facts[("TD-90", "Price")].fact.answer == "£2,140"
    assert facts[("TD-90", "Price")].fact.evidence.text == "| TD-90 | 31 kg | £2,140 | Elm 2 |"
    questions = {ask.form: ask.question for ask in facts[("TD-90", "Price")].asks}
    assert questions["natural"] == "How much does TD-90 cost?"
    assert questions["reverse"] == "Which model has the price £2,140?"
    assert questions["indirect"] == "Do you know how much TD-90 costs?"
    assert "reverse" not in {ask.form for ask in facts[("TD-90", "Bay")].asks}, "two models are in Elm 2"


def test_a_row_of_dashes_does_not_shift_the_evidence_of_the_others() -> None:
    drafts = draft_all((("Part", "Stock"), ("Coil", "31"), ("-", "-"), ("Lamp", "18")))
    assert {d.fact.answer: d.fact.evidence.text for d in drafts} == {
        "31": "| Coil | 31 |",
        "18": "| Lamp | 18 |",
    }


def test_a_column_that_is_no_noun_is_quoted() -> None:
    (draft,) = draft_all((("Site", "What happens there"), ("Quay", "warehouse")))
    assert {ask.form: ask.question for ask in draft.asks}["what_of"] == (
        "What is the entry 'What happens there' of Quay?"
    )


def test_a_heading_that_asks_is_answered_by_what_follows() -> None:
    (faq,) = [draft for draft in draft_all(*PROSE) if draft.fact.kind == "faq"]
    assert faq.asks[0].question == "Can you silence the bells at night?"
    assert faq.fact.answer.startswith("Yes. The MC-7 has")


@pytest.mark.parametrize(
    "line",
    [
        "On Mon, 2 Mar 2026 at 17:40, Edwin Larkspur wrote:",
        "> On Fri, 27 Feb 2026 at 09:05, Odalys Finnemore",
        "On 3 March 2026 Edwin Larkspur <edwin@example.org> wrote:",
        "----- Original Message -----",
    ],
)
def test_the_line_above_a_quoted_mail_states_nothing(line: str) -> None:
    assert draft_all(line) == []
    assert draft_all("On Monday 2 March 2026 the yard is closed for repairs.") != []


def test_digits_of_a_card_number_are_no_fact() -> None:
    drafts = draft_all("The card 4929 1234 5678 9012 exp 08/27 is kept by the office.")
    assert not [draft for draft in drafts if re.search(r"\d", draft.fact.answer)]


def test_like_facts_have_like_ids_and_others_other_ones() -> None:
    one, again = ({d.fact.id for d in draft_all(*PROSE)} for _ in range(2))
    assert one == again
    assert one.isdisjoint({d.fact.id for d in draft_all(*PROSE, path="other.md")})


@pytest.mark.parametrize(
    "text", ["", "n/a", "Yes", "[x]", "https://a.b/c", "{{name}}", "<b>", "—", " ".join(["w"] * 16)]
)
def test_what_says_nothing_is_no_answer(text: str) -> None:
    assert not extract.usable(text)


@pytest.mark.parametrize(
    ("block", "answer"),
    [
        ((("Site", "Country"), ("Warehouse 3", "US"), ("Warehouse 4", "UK")), "US"),
        ("Owner: IT", "IT"),
        ("Keys: One", "One"),
    ],
)
def test_a_cell_or_field_that_is_spelt_like_a_pronoun_is_a_fact(block: str | Cells, answer: str) -> None:
    assert answer in {draft.fact.answer for draft in draft_all(block)}


def test_a_pronoun_of_a_sentence_answers_nothing_and_a_country_does() -> None:
    assert draft_all("The spare key belongs to us.") == []
    assert {draft.fact.answer for draft in draft_all("The spare key belongs to US.")} == {"US"}


def test_ten_thousand_random_strings_never_break_it() -> None:
    source = random.Random(7)
    alphabet = "abcAB 01.,;:!?-–—'\"()[]|/\\\n\t_%£€@#*&é漢字\u200b\u202e\x00😀İßﬁ"  # noqa: RUF001
    started = time.process_time()
    asked = 0
    for number in range(10_000):
        size = source.randint(0, 60)
        if number % 2:
            text = "".join(source.choices(alphabet, k=size))
        else:
            text = "".join(
                chr(source.choice((source.randint(0, 0x2FF), source.randint(0x2000, 0xD7FF))))
                for _ in range(size)
            )
        text = f"The {text} is 12 kg" if number % 5 == 0 else text
        for draft in extract.drafts(_hostile_chunk(text, ("paragraph", "field", "table")[number % 3])):
            for ask in draft.asks:
                asked += 1
                assert ask.question.strip()
    assert asked > 1000, "the strings must be such that something is stated"
    assert time.process_time() - started < 40


@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, "a." * 50_000, "\n" * 100_000, "A: " * 33_000, "Key:\n" * 20_000, "e.g. " * 20_000, "1 " * 50_000,
     '"' * 100_000, "A1-" * 33_000, "On " * 33_000, "| - " * 25_000, "The a is 1 kg. " * 6_600, " " * 100_000],
    ids=lambda text: repr(text[:5]),
)  # fmt: skip
def test_a_line_of_a_hundred_thousand_characters_ends_soon(text: str) -> None:
    started = time.process_time()
    for kind in ("paragraph", "field", "table"):
        list(extract.drafts(_hostile_chunk(text, kind)))
    assert time.process_time() - started < 20
