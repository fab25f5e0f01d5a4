"""Word lists that agree with each other, forms led back to their base, and tags in their places."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.facts import lexis


def _third_person(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def test_every_verb_is_found_again_from_its_third_person() -> None:
    wrong = {verb for verb in lexis.VERBS - {"have"} if lexis.lemma(_third_person(verb)) != verb}
    assert wrong == set()
    assert lexis.lemma("Has") == "have"
    assert len(lexis.VERBS) > 100


@pytest.mark.parametrize(
    ("verb", "base"),
    [("dropped", "drop"), ("called", "call"), ("passed", "pass"), ("stored", "store"), ("expired", "expire"),
     ("replied", "reply"), ("handled", "handle"), ("covered", "cover"), ("repaired", "repair"), ("needed", "need"),
     ("inspected", "inspect"), ("printed", "print"), ("placed", "place"), ("hung", "hang"), ("Led", "lead"),
     ("run", "run"), ("pass", "pass")],
)  # fmt: skip
def test_past_forms_lose_what_was_added_and_no_more(verb: str, base: str) -> None:
    assert lexis.lemma(verb) == base


def test_durations_have_a_plural_and_what_is_no_word_stays() -> None:
    assert {lexis.plural(unit) for unit in lexis.DURATIONS} == {
        "seconds", "minutes", "hours", "days", "nights", "weeks", "months", "years"
    }  # fmt: skip
    assert [lexis.plural(unit) for unit in ("m3", "branch", "staff", "bar", "foot", "feet", "Woman", "")] == [
        "m3", "branches", "staff", "bar", "feet", "feet", "women", ""
    ]  # fmt: skip


def test_names_are_not_in_the_lexicon_and_the_pronoun_keeps_its_capital() -> None:
    assert [lexis.is_known(word) for word in ("pump", "workshop", "lindqvarn", "skelbeck")] == [
        True, True, False, False
    ]  # fmt: skip
    assert lexis.lower_first("I keep the key") == "I keep the key"
    assert lexis.lower_first("A pump") == "a pump"


def test_words_have_their_place_and_their_part_of_speech() -> None:
    found = {piece.text: (piece.start, label) for piece, label in lexis.tags("The old boiler needs 12 keys.")}
    assert found["The"] == (0, "DT")
    assert found["boiler"] == (8, "NN")
    assert found["needs"] == (15, "VBZ")
    assert found["12"] == (21, "CD")
    assert found["keys"] == (24, "NNS")
    assert lexis.tags(" \n") == ()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_every_word_of_any_text_is_tagged_once_in_order(text: str) -> None:
    tagged = lexis.tags(text)
    assert all(text[piece.start : piece.end] == piece.text and label for piece, label in tagged)
    assert [piece.start for piece, _ in tagged] == sorted({piece.start for piece, _ in tagged})
