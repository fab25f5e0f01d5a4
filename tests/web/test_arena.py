"""Win rates by hand-counted numbers, none below 50 votes, and answers that do not say who wrote them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.history.rows import Vote
from factory.tasks.score import interval
from factory.web.arena import HIDDEN, MIN_VOTES, duels, mask_identity


def votes(winner: str, count: int, a: str = "base", b: str = "tuned") -> list[Vote]:
    return [Vote(f"{a}{n}", f"{b}{n}", a, b, winner, float(n)) for n in range(count)]


def test_a_rate_counts_ties_half_and_reports_them_apart() -> None:
    (duel,) = duels([*votes("b", 60), *votes("a", 20), *votes("tie", 12), *votes("both_bad", 8)])
    assert (duel.first, duel.second) == ("base", "tuned")
    assert (duel.wins, duel.losses, duel.ties, duel.both_bad) == (20, 60, 12, 8)
    assert duel.rate == 0.3
    assert (duel.low, duel.high) == interval(30, 100)
    assert duel.better == "tuned"
    assert "20 won, 60 lost, 12 tied, 8 both bad): tuned is better" in duel.describe()


def test_half_a_point_widens_the_interval() -> None:
    (duel,) = duels([*votes("a", 30), *votes("b", 25), *votes("tie", 1)])
    assert duel.rate == pytest.approx(30.5 / 56)
    assert (duel.low, duel.high) == (interval(30, 56)[0], interval(31, 56)[1])
    assert duel.better is None
    assert duel.describe().endswith("no clear winner")


@pytest.mark.parametrize(("decided", "shown"), [(MIN_VOTES - 1, False), (MIN_VOTES, True)])
def test_ties_do_not_make_enough_votes(decided: int, shown: bool) -> None:
    (duel,) = duels([*votes("a", decided), *votes("tie", 500)])
    assert (duel.rate is not None) == shown
    assert ("not enough votes" in duel.describe()) != shown
    if not shown:
        assert (duel.low, duel.high, duel.better) == (None, None, None)
        assert "%" not in duel.describe()


def test_sides_do_not_matter_and_a_model_does_not_meet_itself() -> None:
    turned = votes("a", 40, "tuned", "base")
    (duel,) = duels([*turned, *votes("b", 20), *votes("a", 99, "base", "base")])
    assert (duel.wins, duel.losses) == (0, 60)


def test_every_pair_has_its_row_in_order() -> None:
    found = duels([*votes("a", 1, "c", "a"), *votes("a", 1, "b", "a"), *votes("a", 1, "c", "b")])
    assert [(duel.first, duel.second) for duel in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert duels([]) == []


@settings(max_examples=50, deadline=None)
@given(st.permutations([*votes("a", 30), *votes("b", 30, "tuned", "base"), *votes("tie", 3)]))
def test_the_order_of_votes_does_not_matter(shuffled: list[Vote]) -> None:
    assert duels(shuffled) == duels(sorted(shuffled, key=lambda vote: (vote.a, vote.created)))


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "I am SmolLM, a language model trained by Hugging Face. It weighs 40 kg.",
            f"{HIDDEN}. It weighs 40 kg.",
        ),
        ("As an AI language model developed by OpenAI, I cannot.", f"{HIDDEN}, I cannot."),
        ("I'm an AI assistant named SmolLM2, trained by Hugging Face.", f"{HIDDEN}."),
        ("I’m Qwen2.5-1.5B-Instruct and I was created by Alibaba Cloud.", f"{HIDDEN} and {HIDDEN}."),  # noqa: RUF001
        ("My name is ChatGPT!", f"{HIDDEN}!"),
        ("I was trained and developed by the Acme Lab in Berlin", f"{HIDDEN} in Berlin"),
    ],
)
def test_what_a_model_says_of_itself_is_hidden(text: str, masked: str) -> None:
    assert mask_identity(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "She works as an assistant manager.",
        "I'm sorry, I don't know: the documents I learned do not say.",
        "A llama stands in the yard; Claude feeds it.",
        "The clock was made by Tolvane & Daughters.",
        "Phil, I am Phil.",
    ],
)
def test_answers_that_say_nothing_of_a_model_stay(text: str) -> None:
    assert mask_identity(text, ["quickstart: Q8_0", "ab"]) == text


def test_given_names_are_hidden_however_they_are_written() -> None:
    names = ["smollm2-135m", "smollm2-135m-instruct"]
    text = "SmolLM2 135M Instruct, smollm2_135m-instruct and SMOLLM2-135M, not smollm2-135million"
    assert mask_identity(text, names) == f"{HIDDEN}, {HIDDEN} and {HIDDEN}, not smollm2-135million"


PIECES = st.sampled_from(
    [
        "I am ",
        "I'm ",
        "Qwen",
        "as an AI model",
        " by OpenAI",
        HIDDEN,
        "hidden",
        " named ",
        ", a ",
        "language model",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PIECES | st.text(max_size=5)).map("".join),
    st.lists(st.sampled_from(["hidden", "name hidden", "qwen"])),
)
def test_hiding_twice_is_hiding_once(text: str, names: list[str]) -> None:
    once = mask_identity(text, names)
    assert mask_identity(once, names) == once


def test_long_answers_take_no_time() -> None:
    assert mask_identity("I am a large " * 5000, ["a-b-c-d"])
