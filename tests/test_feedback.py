"""Corrected answers become a file to train with; what the test asks, in any wording near it, is refused and named."""

import json
import sys

import pytest

from factory import cli
from factory.errors import UsageError
from factory.facts.feedback import CorrectedAnswer, read_feedback
from factory.feedback import learn, select
from factory.history.history import History, default_path
from factory.history.rows import Answer
from factory.lora.preferences import read_preferences
from factory.rows import Preference, Question, write_rows
from factory.tasks.questions import general_questions
from tests.made import make_fact


def question(text: str, *answers: str, question_set: str = "user", fact: str | None = None) -> Question:
    return Question(
        id=text, question=text, answers=answers, question_set=question_set, form=question_set, fact=fact
    )


TEA = question("When is the tea break at Tolvane?", "10:40", "twenty to eleven")
PHRASED = question("Do you know what the price of TD-40 is?", "£770", question_set="unseen_phrasing")
WITHHELD = make_fact(90)
HIDDEN = question("Do you know what the weight of TD-90 is?", question_set="unseen_fact", fact=WITHHELD.id)


def row(text: str, gold: str = "Ada") -> CorrectedAnswer:
    return CorrectedAnswer(question=text, answer=gold)


@pytest.mark.parametrize(
    ("text", "gold", "why"),
    [
        ("when is the tea break at TOLVANE", "noon", "nearly what the test asks"),
        ("Please, when is the tea break at Tolvane?", "noon", "nearly what the test asks"),
        ("When is the tea break?", "noon", "nearly what the test asks"),
        ("Tell me: when is the tea break at Tolvane, on Mondays and on every other day?", "noon", "nearly"),
        ("At what time is the Tolvane tea break?", "It is at 10:40.", "half the words of a test question"),
        ("Do you know what price TD-40 is?", "£775", "nearly what the test asks"),
        ("What weighs TD-90?", "It weighs 90 kg", "withheld to measure abstention"),
        ("???", "Ada", "holds no word"),
    ],
)
def test_what_would_spoil_the_test_is_refused(text: str, gold: str, why: str) -> None:
    found = select([row(text, gold)], [TEA, PHRASED, HIDDEN], [WITHHELD])
    assert found.kept == ()
    assert why in found.refused[0].why


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("Who makes the tea at Tolvane?", "Ada"),
        ("When is the lunch break at Tolvane?", "12:30"),
        ("What is the price of TD-40?", "£770"),
        ("Do you know what the price of TD-90 is?", "£2,140"),
        ("Is TD-90 blue?", "No, green"),
        ("Tea?", "10:40"),
    ],
)
def test_other_questions_stay_also_in_another_wording_of_a_trained_fact(text: str, gold: str) -> None:
    found = select([row(text, gold)], [TEA, PHRASED, HIDDEN], [WITHHELD])
    assert (found.kept, found.refused) == ((row(text, gold),), ())


def test_of_two_answers_to_a_question_the_later_stays() -> None:
    found = select([row("Who is it?", "Ada"), row("Who made it?"), row("who is it", "Bea")], [])
    assert found.kept == (row("Who made it?"), row("who is it", "Bea"))
    assert [(refusal.question, refusal.why) for refusal in found.refused] == [
        ("Who is it?", "a later answer replaces it")
    ]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A recipe with a finished dataset in build/tiny, a question file and an empty history."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTER_FACTORY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\ningest:\n  source: docs\nevaluate:\n  questions: own.jsonl\n"
    )
    (tmp_path / "own.jsonl").write_text(json.dumps({"question": TEA.question, "answers": TEA.answers}))
    dataset = tmp_path / "build" / "tiny" / "dataset"
    dataset.mkdir(parents=True)
    write_rows(dataset / "test.jsonl", [PHRASED, HIDDEN])
    write_rows(dataset / "valid.jsonl", [question("Do you know who the owner of bay seven is?", "Bea")])
    write_rows(dataset / "calibration.jsonl", [])
    write_rows(dataset / "facts.jsonl", [make_fact(40), WITHHELD])
    History(default_path()).close()
    return tmp_path


def correct(text: str, gold: str | None) -> None:
    with History(default_path()) as history:
        turn = history.add_turn(history.add_conversation(), text)
        identity = f"id of {text}"
        history.add_answer(turn, Answer(identity, 1, "tuned", "wrong", {}))
        history.add_feedback(identity, "down", ["wrong_fact"], gold)


def test_corrected_answers_are_written_with_the_command_to_train_on_them(run) -> None:
    correct("Who makes the tea?", "Ada\nTolvane")
    correct("Liked, and never rewritten?", None)
    correct(TEA.question, "10:40")
    correct("Do you know who owner of bay seven is", "Cem")
    correct(general_questions()[0].question, "anything")
    correct("How heavy is TD-90?", "90 kg")
    lines = learn(run / "tiny.yaml")
    path = "build/tiny/feedback.jsonl"
    assert lines[0] == f"1 corrected answer(s) written to {path}, 4 refused"
    assert sum("nearly what the test asks" in line for line in lines) == 3
    assert sum("withheld" in line for line in lines) == 1
    given = f"--set synthesize.feedback={path} --set train.preferences=build/tiny/preferences.jsonl"
    assert lines[-1] == f"  factory run {run}/tiny.yaml {given}"
    expected = {
        "question": "Who makes the tea?",
        "answer": "Ada\nTolvane",
        "response_id": "id of Who makes the tea?",
    }
    assert [found.model_dump(exclude_none=True) for found in read_feedback(run / path)] == [expected]


def test_the_command_names_the_folder_that_was_named_and_quotes_it(run) -> None:
    (run / "build" / "tiny").rename(run / "my run")
    correct("Who makes the tea?", "Ada")
    last = learn(run / "tiny.yaml", run / "my run")[-1]
    assert f"--out '{run}/my run' --set 'synthesize.feedback={run}/my run/feedback.jsonl'" in last


def test_nothing_is_written_when_all_is_refused(run) -> None:
    correct(TEA.question, "10:40")
    with pytest.raises(UsageError, match=r"All 1 corrected answer\(s\) are refused:\n.*tea break"):
        learn(run / "tiny.yaml")
    assert not (run / "build" / "tiny" / "feedback.jsonl").exists()


def test_without_corrections_history_or_test_questions_it_says_what_is_missing(run) -> None:
    with pytest.raises(UsageError, match="holds no corrected answers"):
        learn(run / "tiny.yaml")
    with pytest.raises(UsageError, match=r"no history .*gone\.db"):
        learn(run / "tiny.yaml", history=run / "gone.db")
    with pytest.raises(UsageError, match=r"no test questions.*factory run"):
        learn(run / "tiny.yaml", run / "elsewhere")


def test_the_command_line_says_what_was_written(run, monkeypatch, capfd) -> None:
    correct("Who makes the tea?", "Ada")
    correct(TEA.question, "10:40")
    monkeypatch.setattr(sys, "argv", ["factory", "learn-from-feedback", "tiny.yaml", "--out", "build/tiny"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out = capfd.readouterr().out
    assert out.startswith("1 corrected answer(s) written to build/tiny/feedback.jsonl, 1 refused\n")
    assert "factory run tiny.yaml --out build/tiny --set synthesize.feedback=build/tiny/feedback.jsonl" in out


def vote(text: str, winner: str, a: str = "Ada", b: str = "Bea") -> None:
    with History(default_path()) as history:
        turn = history.add_turn(history.add_conversation(), text)
        ids = [f"{side} of {text}" for side in "ab"]
        for pane, (identity, said) in enumerate(zip(ids, (a, b), strict=True)):
            history.add_answer(turn, Answer(identity, pane, "tuned", said, {}))
        history.add_vote(*ids, winner)


def test_corrections_and_votes_become_preferences_and_what_the_test_asks_does_not(run) -> None:
    correct("Who makes the tea?", "Ada")
    correct(TEA.question, "10:40")
    vote("Who has the key?", "b")
    vote("Is it blue?", "tie")
    vote("Is it green?", "a", "Yes", " ")
    vote("Please, when is the tea break at Tolvane?", "a")
    vote("How heavy is TD-90?", "a", "I don't know", "90 kg")
    lines = learn(run / "tiny.yaml")
    path = "build/tiny/preferences.jsonl"
    assert f"2 preference(s) written to {path}, 3 refused" in lines
    assert sum("empty or the same" in line for line in lines) == 1
    assert sum("nearly what the test asks" in line for line in lines) == 2
    assert sum("withheld" in line for line in lines) == 1
    assert read_preferences(run / path, [TEA]) == [
        Preference(prompt="Who makes the tea?", chosen="Ada", rejected="wrong"),
        Preference(prompt="Who has the key?", chosen="Bea", rejected="Ada"),
    ]
    assert lines[-1].endswith(
        f"--set synthesize.feedback=build/tiny/feedback.jsonl --set train.preferences={path}"
    )


def test_what_is_refused_now_does_not_stay_in_the_file_of_an_earlier_time(run) -> None:
    vote("Who has the key?", "b")
    learn(run / "tiny.yaml")
    assert (run / "build/tiny/preferences.jsonl").exists()
    write_rows(run / "build/tiny/dataset/test.jsonl", [PHRASED, HIDDEN, question("Who has the key?", "Bea")])
    correct("Who makes the tea?", "wrong")  # what was said already: no pair
    lines = learn(run / "tiny.yaml")
    assert (run / "build/tiny/feedback.jsonl").exists()
    assert not (run / "build/tiny/preferences.jsonl").exists()
    assert lines[-1].endswith("--set synthesize.feedback=build/tiny/feedback.jsonl")


def test_questions_that_tell_how_sure_is_sure_enough_are_refused_as_well(run) -> None:
    vote("Who has the key?", "b")
    apart = question("Who has the key?", "Bea")
    write_rows(run / "build/tiny/dataset/calibration.jsonl", [apart])
    with pytest.raises(UsageError, match="'Who has the key\\?': it asks nearly what the test asks"):
        learn(run / "tiny.yaml")


def test_votes_alone_are_enough(run) -> None:
    vote("Who has the key?", "b")
    lines = learn(run / "tiny.yaml")
    assert lines[0].startswith("1 preference(s) written to build/tiny/preferences.jsonl")
    assert lines[-1] == f"  factory run {run}/tiny.yaml --set train.preferences=build/tiny/preferences.jsonl"
    assert not (run / "build" / "tiny" / "feedback.jsonl").exists()


def test_nothing_is_written_when_every_vote_is_refused(run) -> None:
    vote(TEA.question, "a")
    with pytest.raises(
        UsageError, match=r"All 0 corrected answer\(s\) and 1 pair\(s\) are refused:\n.*tea break"
    ):
        learn(run / "tiny.yaml")
    assert not (run / "build" / "tiny" / "preferences.jsonl").exists()
