"""The dataset card says what the counts say."""

from factory.facts.card import dataset_card
from tests.made import make_fact

COUNTS = {
    "train": 90,
    "facts": 31,
    "facts_withheld": 1,
    "abstain": 4,
    "valid": 7,
    "calibration": 9,
    "unseen_phrasing": 21,
    "unseen_fact": 1,
    "leaks": 0,
    "near_duplicates": 5,
    "altered": 12,
    "hygiene": {"phone": 2, "email": 3},
}


def test_the_card_holds_every_count_and_setting() -> None:
    facts = [make_fact(1), make_fact(2), make_fact(3, document="b.md")]
    card = dataset_card(COUNTS, facts, {"near_duplicate_threshold": 0.9})
    assert card.startswith("---\nlanguage: en\n")
    assert "90 training conversations on 30 facts; 1 further facts are withheld" in card
    for line in (
        "| train | 90 | 4 of them teach to abstain |",
        "| of these below altered passages | 12 | reading; they say what no document says |",
        "| valid | 7 | recall during training, unseen phrasing |",
        "| calibration | 9 | how sure is sure enough |",
        "| test, unseen phrasing | 21 | recall |",
        "| test, unseen fact | 1 | abstention |",
        "- email: 3",
        "- phone: 2",
        "| a.md | 2 |",
        "| b.md | 1 |",
        "- `near_duplicate_threshold`: 0.9",
    ):
        assert line in card.splitlines(), line


def test_a_clean_dataset_says_that_nothing_was_found() -> None:
    assert "- nothing found: 0" in dataset_card(COUNTS | {"hygiene": {}}, [], {})


def test_without_altered_passages_none_are_spoken_of() -> None:
    assert "altered" not in dataset_card(COUNTS | {"altered": 0}, [], {})
