"""Rows that teach to abstain ask only what no document states; abstentions are recognised."""

import pytest

from factory.facts import abstain
from factory.facts.phrasing import ask_cell
from factory.text import normalize
from tests.made import make_fact

FACTS = [
    make_fact(number).model_copy(
        update={"subject": subject, "relation": relation, "id": f"{subject}{relation}"}
    )
    for number, (subject, relation) in enumerate(
        [
            ("TD-40", "Price"),
            ("TD-90", "Price"),
            ("Repair", "Fee"),
            ("Leave policy", "Owner"),
            ("Wren", "Colour"),
        ]
    )
]


def _questions(count: int = 50, seed: int = 1) -> set[str]:
    return {normalize.normalize(row.messages[-2].content) for row in abstain.examples(FACTS, count, seed, "")}


def test_no_row_asks_what_a_fact_answers_in_whatever_words() -> None:
    stated = {
        normalize.normalize(ask.question)
        for fact in FACTS
        for ask in ask_cell(fact, "", fact.topic, unique=False)
    }
    asked = _questions()
    assert len(asked) > 20
    assert asked.isdisjoint(stated), "a fee and a price are both asked for by `How much does it cost?`"


def test_rows_abstain_teach_no_fact_and_carry_the_system_text() -> None:
    rows = abstain.examples(FACTS, 10, 1, "Be short.")
    assert len(rows) == 10
    for row in rows:
        assert [message.role for message in row.messages] == ["system", "user", "assistant"]
        assert row.messages[-1].content == abstain.ABSTENTION
        assert row.facts == ()
        assert row.form == "abstain"


def test_the_seed_decides_which_are_asked() -> None:
    assert _questions(10, 1) == _questions(10, 1)
    assert _questions(10, 1) != _questions(10, 2)


def test_without_two_columns_there_is_nothing_to_cross() -> None:
    assert abstain.examples([], 5, 1, "") == []
    assert abstain.examples(FACTS[:2], 5, 1, "") == []
    assert abstain.examples([make_fact(1, kind="sentence"), make_fact(2, kind="sentence")], 5, 1, "") == []


@pytest.mark.parametrize(
    ("reply", "abstains"),
    [
        (abstain.ABSTENTION, True),
        ("I don\u2019t know.", True),
        ("I do NOT know that one", True),
        ("That is not stated in the handbook.", True),
        ("12 bar", False),
        ("", False),
        ("Nobody knows better than Petra.", False),
    ],
)
def test_a_reply_abstains_when_it_says_so(reply: str, abstains: bool) -> None:
    assert abstain.is_abstention(reply) is abstains
