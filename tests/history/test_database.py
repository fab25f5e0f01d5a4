"""The history's file: all or nothing, keys that hold, values as JSON, and which files are refused with what advice."""

import json
import sqlite3

import pytest

from factory.errors import ArtifactError
from factory.history.database import Database

VOTE = {"a": "x", "b": "y", "winner": "a", "created": 1.0}
FEEDBACK = {"response_id": "r", "thumb": "up", "tags": ("style", "refused"), "gold": None, "created": 1.0}
CONVERSATION = {"id": "c", "created": 1.0, "parent": None, "parent_turn": None}
TURN = {
    "id": "t", "conversation": "c", "number": 1, "prompt": "Who?", "system": "", "created": 1.0,
    "settings": {"stop": ["\n"], "temperature": 0.5},
}  # fmt: skip


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "history.db")
    yield opened
    opened.close()


def count(database, table):
    return database.read(f"SELECT count(*) FROM {table}")[0][0]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_a_block_that_breaks_off_changes_nothing_and_the_next_one_works(database, interruption):
    def break_off():
        with database.changing():
            database.insert("votes", VOTE)
            raise interruption

    with pytest.raises(interruption):
        break_off()
    assert count(database, "votes") == 0
    with database.changing():
        database.insert("votes", VOTE)
    assert count(database, "votes") == 1


def test_mappings_and_sequences_are_kept_as_json(database):
    database.insert("conversations", CONVERSATION)
    database.insert("turns", TURN)
    database.insert("feedback", FEEDBACK)
    (turn,), (feedback,) = database.read("SELECT * FROM turns"), database.read("SELECT * FROM feedback")
    assert json.loads(turn["settings"]) == {"stop": ["\n"], "temperature": 0.5}
    assert (json.loads(feedback["tags"]), feedback["gold"]) == (["style", "refused"], None)


def test_half_a_character_becomes_a_question_mark(database):
    database.insert("feedback", FEEDBACK | {"gold": "40 \ud83d kg"})
    assert database.read("SELECT gold FROM feedback")[0]["gold"] == "40 ? kg"


def test_a_row_of_the_same_key_is_refused_unless_it_replaces(database):
    database.insert("feedback", FEEDBACK)
    with pytest.raises(sqlite3.IntegrityError):
        database.insert("feedback", FEEDBACK | {"thumb": "down"})
    database.insert("feedback", FEEDBACK | {"thumb": "down"}, replace=True)
    assert [row["thumb"] for row in database.read("SELECT thumb FROM feedback")] == ["down"]


def test_a_pair_has_one_vote_and_a_turn_one_conversation_which_takes_it_along(database):
    database.insert("votes", VOTE)
    with pytest.raises(sqlite3.IntegrityError):
        database.insert("votes", VOTE | {"a": "y", "b": "x"})
    with pytest.raises(sqlite3.IntegrityError):
        database.insert("turns", TURN)
    database.insert("conversations", CONVERSATION)
    database.insert("turns", TURN)
    database.run("DELETE FROM conversations WHERE id = ?", "c")
    assert count(database, "turns") == 0


@pytest.mark.parametrize("version", [1, 3])
def test_a_file_of_another_version_is_refused_with_both_versions_and_left_as_it_was(tmp_path, version):
    path = tmp_path / "history.db"
    database = Database(path)
    assert database.read("PRAGMA user_version")[0][0] == 2
    database.run(f"PRAGMA user_version = {version}")
    database.close()
    with pytest.raises(
        ArtifactError, match=rf"schema version {version}, this program knows 2 alone: move it away"
    ):
        Database(path)
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    connection.execute("PRAGMA user_version = 2")  # would fail if the refused opening held a lock
    connection.close()
    Database(path).close()
