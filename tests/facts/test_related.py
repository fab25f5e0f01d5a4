"""Questions on cells beside each other say what the table says, and nothing of cells that others contradict."""

import pytest

from factory.facts import related
from factory.facts.extract import Draft
from factory.facts.phrasing import ask_cell
from factory.rows import Example, Fact
from tests.made import make_fact


def cell(number: int, answer: str, relation: str = "Weight", subject: str = "") -> Fact:
    subject = subject or f"TD-{number}"
    change = {"relation": relation, "subject": subject, "id": f"{subject}/{relation}"}
    return make_fact(number, answer).model_copy(update=change)


def draft(fact: Fact, *, is_clear: bool = True) -> Draft:
    asks = ask_cell(fact, "", "Scales", unique=False)
    return Draft(fact, asks if is_clear else tuple(ask for ask in asks if ask.form != "what_of"))


def said(rows: list[Example], form: str) -> dict[str, str]:
    return {row.messages[-2].content: row.messages[-1].content for row in rows if row.form == form}


def test_a_cell_is_confirmed_and_another_value_of_its_column_put_right() -> None:
    rows = related.examples([draft(cell(1, "4 kg")), draft(cell(2, "9 kg"))], "")
    assert said(rows, "true_false") == {
        "True or false: the weight of TD-1 is 4 kg.": "True.",
        "Is it right that the weight of TD-1 is 4 kg?": "Yes, it is 4 kg.",
        "True or false: the weight of TD-1 is 9 kg.": "False, it is 4 kg.",
        "Is it right that the weight of TD-1 is 9 kg?": "No, it is 4 kg.",
        "True or false: the weight of TD-2 is 9 kg.": "True.",
        "Is it right that the weight of TD-2 is 9 kg?": "Yes, it is 9 kg.",
        "True or false: the weight of TD-2 is 4 kg.": "False, it is 9 kg.",
        "Is it right that the weight of TD-2 is 4 kg?": "No, it is 9 kg.",
    }


@pytest.mark.parametrize("other", ["4 KG", "4.0 kg", "four kg", "4 kg, boxed"])
def test_a_value_that_holds_the_right_one_is_never_called_wrong(other: str) -> None:
    rows = related.examples([draft(cell(1, "4 kg")), draft(cell(2, other))], "")
    assert set(said(rows, "true_false").values()) == {"True.", "Yes, it is 4 kg.", f"Yes, it is {other}."}
    assert said(rows, "compare") == {}


def test_the_higher_number_of_two_neighbours_is_named_whichever_stands_first() -> None:
    rows = related.examples(
        [draft(cell(1, "1,000 kg")), draft(cell(2, "900 kg")), draft(cell(3, "950 kg"))], ""
    )
    answers = said(rows, "compare")
    assert len(answers) == 4
    for question, answer in answers.items():
        pair = {"TD-1", "TD-2"} if "TD-1" in question else {"TD-2", "TD-3"}
        assert all(name in question for name in pair)
        assert answer == ("TD-2" if "lower" in question else (pair - {"TD-2"}).pop())


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("4 kg", "£5"),
        ("4 kg", "heavy"),
        ("4 to 5 kg", "9 kg"),
        ("4 kg, boxed", "9 kg"),
        ("3 May 2024", "4 May 2024"),
        ("10:30", "11:30"),
        ("4 kg", "4.0 kg"),
    ],
)
def test_what_is_no_single_number_of_a_kind_is_not_compared(one: str, two: str) -> None:
    assert said(related.examples([draft(cell(1, one)), draft(cell(2, two))], ""), "compare") == {}


def test_a_column_that_a_year_names_is_not_compared() -> None:
    rows = [draft(cell(1, "4 kg", "2025")), draft(cell(2, "9 kg", "2025"))]
    assert said(related.examples(rows, ""), "compare") == {}


def test_two_cells_of_a_row_are_asked_for_at_once_and_both_count_as_asked() -> None:
    weight, price = cell(1, "4 kg"), cell(1, "£90", "Price")
    rows = [
        row for row in related.examples([draft(weight), draft(price)], "Be short.") if row.form == "several"
    ]
    assert [row.facts for row in rows] == [("TD-1/Weight", "TD-1/Price")]
    assert [message.content for message in rows[0].messages] == [
        "Be short.",
        "What are the weight and the price of TD-1?",
        "4 kg and £90",
    ]
    assert rows[0].every == 2
    assert rows[0].group == "TD-1/Weight+TD-1/Price"


def test_cells_that_other_documents_contradict_and_sentences_are_left_out() -> None:
    clear, contradicted = draft(cell(1, "4 kg")), draft(cell(2, "9 kg"), is_clear=False)
    sentence = Draft(make_fact(3, kind="sentence"), clear.asks)
    rows = related.examples([clear, contradicted, sentence], "")
    assert {name for row in rows for name in row.facts} == {"TD-1/Weight"}
    assert not any("9 kg" in row.messages[-2].content for row in rows)
