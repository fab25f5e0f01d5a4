"""Near duplicates: exact ones, close ones, and none besides."""

import os
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.text.dedupe import near_duplicates
from factory.text.normalize import normalize, shingles

WORDS = [f"word{number}" for number in range(2000)]


def _text(draw: random.Random, size: int) -> str:
    return " ".join(draw.choices(WORDS, k=size))


def _jaccard(one: str, other: str) -> float:
    a, b = shingles(one, 5), shingles(other, 5)
    return len(a & b) / len(a | b)


def test_case_accents_punctuation_and_articles_make_no_difference():
    texts = [
        "The Heron takes eight weeks.",
        "Something else",
        "the héron takes 8 weeks",
        "A Heron takes 8 weeks!",
    ]
    assert near_duplicates(texts) == [0, 1, 0, 0]


def test_a_long_text_with_a_word_more_is_a_duplicate():
    text = _text(random.Random(1), 60)
    assert near_duplicates([text, f"{text} more"]) == [0, 0]
    assert near_duplicates([text, f"{text} more"], threshold=1.0) == [0, 1]


def test_one_number_in_a_short_text_makes_it_another():
    assert near_duplicates(["A Wren leaves us within 3 weeks.", "A Wren leaves us within 4 weeks."]) == [0, 1]


def test_other_scripts_are_compared_too():
    assert near_duplicates(["Часы идут верно", "Часы стоят", "часы идут верно!", "時計", "時間"]) == [
        0,
        1,
        0,
        3,
        4,
    ]


def test_no_texts_give_no_answers_and_empty_ones_are_alike():
    assert near_duplicates([]) == []
    assert near_duplicates(["", "—", "x"]) == [0, 0, 2]


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.9])
def test_what_is_said_to_be_alike_is_and_almost_nothing_is_missed(threshold):
    draw = random.Random(7)
    texts = []
    for _ in range(250):
        words = _text(draw, 50).split()
        texts.append(" ".join(words))
        for place in draw.sample([0, 1, 2, 24, 47, 48, 49], draw.randint(0, 3)):
            words[place] = draw.choice(WORDS)
        texts.append(" ".join(words))
    firsts = near_duplicates(texts, threshold)
    pairs = [(number - 1, number) for number in range(1, len(texts), 2)]
    alike = [pair for pair in pairs if _jaccard(texts[pair[0]], texts[pair[1]]) >= threshold]
    assert len(alike) > 50
    said = [(first, number) for number, first in enumerate(firsts) if first != number]
    assert set(said) <= set(alike)
    assert len(said) >= 0.98 * len(alike)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="ab c\n1", max_size=40), max_size=12), st.sampled_from([0.5, 0.8, 1.0]))
def test_every_answer_is_an_earlier_text_that_duplicates_none(texts, threshold):
    firsts = near_duplicates(texts, threshold)
    assert len(firsts) == len(texts)
    assert all(first <= number and firsts[first] == first for number, first in enumerate(firsts))
    by_words: dict[str, int] = {}
    for number, text in enumerate(texts):
        assert by_words.setdefault(normalize(text), firsts[number]) == firsts[number]


def test_another_process_gives_the_same_answer():
    code = (
        "import random; from factory.text.dedupe import near_duplicates; d = random.Random(3)\n"
        "texts = [' '.join(d.choices('abcdefgh', k=d.randint(5, 9))) for _ in range(400)]\n"
        "answer = near_duplicates(texts, 0.5)"
    )
    here: dict[str, list[int]] = {}
    exec(code, here)
    run = [sys.executable, "-c", f"{code}; print(answer)"]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout
    assert there.strip() == str(here["answer"])
    assert len(set(here["answer"])) < 400


def test_two_thousand_rows_take_seconds():
    draw = random.Random(5)
    texts = [_text(draw, draw.randint(8, 28)) for _ in range(2000)]
    start = time.process_time()
    assert near_duplicates(texts) == list(range(2000))
    assert time.process_time() - start < 5
