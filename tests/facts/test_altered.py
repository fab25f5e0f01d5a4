"""What could stand in an answer's place looks like it, stands nowhere yet, and is put in everywhere at once."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.facts.altered import WORDS, Alternatives, replacer
from factory.facts.spans import MONTHS

NAMES = ("Ada Tolvane", "Corwin Ashdale", "Huw Crickmore")
COMMON = ("blue paint", "grey flask", "white button")
ALTERNATIVES = Alternatives((*NAMES, *COMMON, "12 bar"))


def other(answer: str, text: str, seed: int = 1) -> str | None:
    return ALTERNATIVES.choose([answer], text, random.Random(seed)).get(answer)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("answer", "looks"),
    [
        ("12 bar", r"(1\d|2[0-8]) bar"),
        ("640 metres", r"[1-9]\d\d metres"),
        ("4.6 kg", r"[1-9]\.[1-9] kg"),
        ("£11,400", r"£[12]\d,[1-9]\d\d"),
        ("S-4015-C", r"S-[1-9]\d{3}-C"),
        ("13 November 2025", rf"(1\d|2[0-8]) ({MONTHS}) (199[5-9]|20[0-5]\d)"),
        ("Thursday", r"[A-Z][a-z]+day"),
        ("six weeks", rf"({WORDS}) weeks"),
        ("Six weeks", rf"({WORDS.title()}) weeks"),
        ("09:30", r"([01]\d|2[0-3]):(00|15|30|45)"),
        ("2025-11-30", r"(199[5-9]|20[0-5]\d)-(0[1-9]|1[0-2])-([01][1-9]|10|2[0-8])"),
        ("Ada Tolvane", "|".join(NAMES[1:])),
        ("grey flask", "|".join((COMMON[0], COMMON[2]))),
    ],
)
def test_another_answer_looks_alike(answer: str, looks: str, seed: int) -> None:
    found = other(answer, f"It is {answer}.", seed)
    assert found is not None
    assert re.fullmatch(looks, found)
    assert found != answer


def test_nothing_is_found_for_what_stands_not_there_is_alone_or_states_something() -> None:
    assert other("12 bar", "It is 112 bar.") is None
    assert other("an answer that looks like no other", "an answer that looks like no other") is None
    assert other("Ada Tolvane", " ".join(NAMES)) is None
    assert other("They had to close 12 gates that day", "They had to close 12 gates that day") is None


def test_two_answers_never_become_the_same() -> None:
    for seed in range(50):
        chosen = ALTERNATIVES.choose(["1 bar", "2 bar", "3 bar"], "1 bar, 2 bar, 3 bar", random.Random(seed))
        assert len(set(chosen.values())) == len(chosen)
        assert set(chosen.values()).isdisjoint(chosen)


def test_all_are_put_in_at_once_whole_words_only_the_longest_first() -> None:
    replace = replacer({"Ada": "Huw", "Huw": "Ada", "Ada Tolvane": "Corwin"})
    assert replace("Ada, Huw, Ada Tolvane, Adamant (Ada)") == "Huw, Ada, Corwin, Adamant (Huw)"
    assert replacer({})("as it is") == "as it is"


@given(st.lists(st.text(min_size=1), max_size=6), st.text(), st.integers())
def test_any_text_can_be_altered(answers: list[str], text: str, seed: int) -> None:
    text = " ".join([text, *answers])
    chosen = Alternatives(answers).choose(answers, text, random.Random(seed))
    assert set(chosen) <= set(answers)
    assert all(chosen[answer] != answer for answer in chosen)
    assert isinstance(replacer(chosen)(text), str)
