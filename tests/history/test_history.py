"""The history gives back what was put in, from many threads, refuses what it cannot keep, and forgets when told to."""

import sqlite3
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.errors import ArtifactError, UsageError
from factory.history.history import TITLE_LENGTH, History, default_path
from factory.history.rows import Answer, Correction

IDENTITY = {"file": "ab" * 32, "adapter": None, "quantization": "Q8_0", "endpoint": "http://127.0.0.1:1"}


@pytest.fixture
def history(tmp_path):
    with History(tmp_path / "deep" / "playground.db") as opened:
        yield opened


def answer(pane: int = 1, text: str = "40 kg", model: str = "tuned", **values) -> Answer:
    return Answer(uuid.uuid4().hex, pane, model, text, IDENTITY, **values)


def ask(history: History, conversation: str, prompt: str, *answers: Answer) -> str:
    turn = history.add_turn(conversation, prompt, "Be short.", {"temperature": 0.0, "stop": ["\n"]})
    for given_answer in answers:
        history.add_answer(turn, given_answer)
    return turn


def two_answers(history: History) -> tuple[str, Answer, Answer]:
    conversation = history.add_conversation()
    base, tuned = answer(1, "I do not know", "base"), answer(2, "41 kg", "tuned")
    ask(history, conversation, "What weighs TD-40?", base, tuned)
    return conversation, base, tuned


def test_a_conversation_comes_back_as_it_was(history) -> None:
    conversation = history.add_conversation()
    measured = answer(
        finish_reason="stop", ttft_s=0.25, tokens_per_s=61.5, prompt_tokens=12, completion_tokens=3, cost=0.0
    )
    sent = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What weighs \ud83d?"})
    drawn = {"temperature": 0.7, "seed": 41, "stop": ["\n"]}
    failed = answer(2, "", error="the endpoint is down", instead_of="base", settings=drawn, sent=sent)
    ask(history, conversation, "What weighs TD-40?", measured, failed)
    ask(history, conversation, "And TD-90?")
    first, second = history.load_conversation(conversation).turns
    sent[1]["content"] = "What weighs ??"  # half a character cannot be stored
    assert first.answers == (measured, failed)
    assert (first.answers[0].system, first.answers[1].system) == ("", "Be brief.")
    assert (first.number, first.system, first.settings["stop"]) == (1, "Be short.", ["\n"])
    assert (second.prompt, second.answers) == ("And TD-90?", ())


def test_a_response_is_found_with_its_question_also_when_a_branch_repeats_it(history) -> None:
    conversation, base, tuned = two_answers(history)
    history.branch(conversation, history.load_conversation(conversation).turns[0].id)
    found = history.find_answer(tuned.response_id)
    assert (found.question, found.answer) == ("What weighs TD-40?", tuned)
    assert history.find_answer(base.response_id).answer == base
    assert history.find_answer("gone") is None


def test_an_unknown_cost_is_none_and_not_zero(history) -> None:
    conversation = history.add_conversation()
    ask(history, conversation, "Hi", answer(cost=None))
    (turn,) = history.load_conversation(conversation).turns
    assert turn.answers[0].cost is None


def test_the_list_has_the_newest_first_under_its_first_prompt_cut(history) -> None:
    old, new, empty = (history.add_conversation() for _ in range(3))
    ask(history, old, "What is\n  the price?")
    ask(history, old, "Another")
    ask(history, new, "w" * 200)
    rows = history.list_conversations()
    assert [row.id for row in rows] == [empty, new, old]
    assert [row.title for row in rows] == ["", "w" * (TITLE_LENGTH - 1) + "…", "What is the price?"]
    assert [row.num_turns for row in rows] == [0, 1, 2]


def test_a_pane_that_answers_again_keeps_both_answers_and_shows_the_last(history) -> None:
    conversation = history.add_conversation()
    first, other, again = answer(1, "one"), answer(2, "two"), answer(1, "three")
    ask(history, conversation, "Hi", first, other, again)
    (turn,) = history.load_conversation(conversation).turns
    assert turn.answers == (first, other, again)
    assert turn.last_answers() == {1: again, 2: other}


def test_a_branch_holds_the_turns_up_to_one_and_knows_its_parent(history) -> None:
    conversation = history.add_conversation()
    kept = answer()
    first = ask(history, conversation, "One", kept)
    ask(history, conversation, "Two", answer())
    branch = history.branch(conversation, first)
    ask(history, branch, "Other two")
    loaded = history.load_conversation(branch)
    assert (loaded.parent, loaded.parent_turn) == (conversation, first)
    assert [turn.prompt for turn in loaded.turns] == ["One", "Other two"]
    assert loaded.turns[0].answers == (kept,)
    assert loaded.turns[0].id != first
    assert [turn.prompt for turn in history.load_conversation(conversation).turns] == ["One", "Two"]


def test_a_branch_needs_a_turn_of_that_conversation(history) -> None:
    one, two = history.add_conversation(), history.add_conversation()
    turn = ask(history, two, "Hi")
    with pytest.raises(UsageError, match="has no turn"):
        history.branch(one, turn)
    assert len(history.list_conversations()) == 2


def test_a_second_vote_on_a_pair_is_refused_in_either_order_and_in_a_branch(history) -> None:
    conversation, base, tuned = two_answers(history)
    history.add_vote(base.response_id, tuned.response_id, "b")
    history.branch(conversation, history.load_conversation(conversation).turns[0].id)
    for pair in ((base, tuned), (tuned, base)):
        with pytest.raises(UsageError, match="a vote on"):
            history.add_vote(pair[0].response_id, pair[1].response_id, "tie")
    (vote,) = history.votes()
    assert (vote.model_a, vote.model_b, vote.winner) == ("base", "tuned", "b")


def test_votes_for_one_of_two_answers_are_pairs_in_order_and_a_branch_makes_no_second(history) -> None:
    conversation, base, tuned = two_answers(history)
    history.add_vote(base.response_id, tuned.response_id, "b")
    history.branch(conversation, history.load_conversation(conversation).turns[0].id)
    _, base, tuned = two_answers(history)
    history.add_vote(base.response_id, tuned.response_id, "tie")
    other, worse = answer(1, "Yes"), answer(2, "No")
    ask(history, history.add_conversation(), "Is it blue?", other, worse)
    history.add_vote(other.response_id, worse.response_id, "a")
    assert [(pair.question, pair.chosen, pair.rejected) for pair in history.voted_pairs()] == [
        ("What weighs TD-40?", "41 kg", "I do not know"),
        ("Is it blue?", "Yes", "No"),
    ]


@pytest.mark.parametrize(
    ("a", "b", "winner", "message"),
    [
        (0, 0, "a", "needs two responses"),
        (0, 1, "base", "'base' is not a vote"),
        (0, None, "a", "hold no 'gone'"),
    ],
)
def test_what_is_no_vote_is_refused(history, a, b, winner, message) -> None:
    ids = [row.response_id for row in two_answers(history)[1:]]
    with pytest.raises(UsageError, match=message):
        history.add_vote(ids[a], "gone" if b is None else ids[b], winner)
    assert history.votes() == []


def test_feedback_is_replaced_and_only_rewritten_answers_are_corrections(history) -> None:
    conversation, base, tuned = two_answers(history)
    history.add_feedback(base.response_id, "up")
    history.add_feedback(tuned.response_id, "down", ["style"], "  ")
    assert history.feedback_with_gold() == []
    history.add_feedback(tuned.response_id, "down", ["wrong_fact", "style", "style"], " 40 kg ")
    history.branch(conversation, history.load_conversation(conversation).turns[0].id)
    (row,) = history.feedback_with_gold()
    expected = ("What weighs TD-40?", "41 kg", "40 kg", "tuned", ("style", "wrong_fact"))
    assert isinstance(row, Correction)
    assert (row.question, row.rejected, row.gold, row.model, row.tags) == expected
    assert history.feedback(base.response_id).thumb == "up"
    assert history.feedback("gone") is None


@pytest.mark.parametrize("values", [{"thumb": "sideways"}, {"tags": ["rude"]}])
def test_feedback_of_an_unknown_kind_is_refused(history, values) -> None:
    _, base, _ = two_answers(history)
    with pytest.raises(UsageError, match="is not a"):
        history.add_feedback(base.response_id, **values)
    with pytest.raises(UsageError, match="hold no"):
        history.add_feedback("gone", "up")


def test_a_response_id_is_taken_once(history) -> None:
    conversation, base, _ = two_answers(history)
    turn = ask(history, conversation, "Again")
    with pytest.raises(UsageError, match="in the history already"):
        history.add_answer(turn, base)


def test_what_is_deleted_is_gone_from_the_files_with_its_votes_and_feedback(tmp_path) -> None:
    path = tmp_path / "playground.db"
    with History(path) as history:
        conversation, base, tuned = two_answers(history)
        history.add_vote(base.response_id, tuned.response_id, "a")
        history.add_feedback(base.response_id, "down", (), "a secret gold answer")
        history.delete(conversation)
        assert (history.list_conversations(), history.votes(), history.feedback_with_gold()) == ([], [], [])
        for file in tmp_path.iterdir():
            assert b"secret gold" not in file.read_bytes(), file
            assert b"What weighs TD-40" not in file.read_bytes(), file
        with pytest.raises(UsageError, match="may have been deleted"):
            history.delete(conversation)


def test_a_branch_keeps_the_vote_when_its_parent_is_deleted(history) -> None:
    conversation, base, tuned = two_answers(history)
    history.add_vote(base.response_id, tuned.response_id, "a")
    branch = history.branch(conversation, history.load_conversation(conversation).turns[0].id)
    history.delete(conversation)
    assert [vote.model_a for vote in history.votes()] == ["base"]
    assert history.load_conversation(branch).turns[0].answers == (base, tuned)


def test_the_file_and_its_journal_can_be_read_by_nobody_else(tmp_path) -> None:
    path = tmp_path / "playground.db"
    with History(path) as history:
        history.add_conversation()
        files = list(tmp_path.iterdir())
        assert len(files) == 3, "the file, its journal and the journal's index"
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_another_opening_finds_what_was_kept(tmp_path) -> None:
    with History(tmp_path / "h.db") as one, History(tmp_path / "h.db") as two:
        conversation = one.add_conversation()
        ask(one, conversation, "Hi", answer())
        assert two.load_conversation(conversation) == one.load_conversation(conversation)


def test_threads_lose_nothing_and_number_turns_without_a_gap(history) -> None:
    conversation, faults = history.add_conversation(), []

    def chat(name: int) -> None:
        try:
            for number in range(20):
                ask(history, conversation, f"{name}-{number}", answer(), answer(2))
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=chat, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    turns = history.load_conversation(conversation).turns
    assert [turn.number for turn in turns] == list(range(1, 121))
    assert {len(turn.answers) for turn in turns} == {2}


def test_a_newer_schema_another_database_and_another_file_are_refused(tmp_path) -> None:
    History(tmp_path / "newer.db").close()
    for name, statement in (("newer.db", "PRAGMA user_version = 99"), ("other.db", "CREATE TABLE t (x)")):
        connection = sqlite3.connect(tmp_path / name)
        connection.execute(statement)
        connection.commit()
        connection.close()
    (tmp_path / "text.db").write_text("not a database, " * 200)
    for name, message in (
        ("newer", "version 99"),
        ("other", "another program's"),
        ("text", "cannot be opened"),
    ):
        with pytest.raises(ArtifactError, match=message):
            History(tmp_path / f"{name}.db")


def test_the_default_file_stands_in_the_cache_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ADAPTER_FACTORY_CACHE", str(tmp_path))
    assert default_path() == Path(tmp_path / "playground.db")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(exclude_categories=())), st.text())
def test_any_text_is_kept(history, prompt, text) -> None:
    conversation = history.add_conversation()
    ask(history, conversation, prompt, answer(text=text))
    (turn,) = history.load_conversation(conversation).turns
    assert turn.prompt == prompt.encode("utf-8", "replace").decode()
    assert turn.answers[0].text == text
