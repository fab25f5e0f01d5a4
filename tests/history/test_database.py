"""The history's file: all or nothing, keys that hold, values as JSON, and which files are refused with what advice."""

import json
import sqlite3

import pytest

from factory.errors import ArtifactError
from factory.history.database import Database
from factory.history.history import History
from factory.history.rows import Answer

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


def test_a_file_of_a_newer_program_is_refused_with_both_versions_and_left_as_it_was(tmp_path):
    path = tmp_path / "history.db"
    database = Database(path)
    assert database.read("PRAGMA user_version")[0][0] == 2
    database.run("PRAGMA user_version = 3")
    database.close()
    with pytest.raises(
        ArtifactError, match=r"has schema version 3, this program knows 2: update the program"
    ):
        Database(path)
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    connection.execute("PRAGMA user_version = 2")  # would fail if the refused opening held a lock
    connection.close()
    Database(path).close()


FIRST = """CREATE TABLE conversations (id TEXT PRIMARY KEY, created REAL NOT NULL, parent TEXT, parent_turn TEXT);
CREATE TABLE turns (
    id TEXT PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    number INTEGER NOT NULL, prompt TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL,
    created REAL NOT NULL, UNIQUE (conversation, number));
CREATE TABLE answers (
    turn TEXT NOT NULL REFERENCES turns ON DELETE CASCADE, response_id TEXT NOT NULL, pane INTEGER NOT NULL,
    model TEXT NOT NULL, identity TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT, ttft_s REAL,
    tokens_per_s REAL, prompt_tokens INTEGER, completion_tokens INTEGER, cost REAL, error TEXT,
    UNIQUE (turn, response_id));
CREATE INDEX answers_by_id ON answers (response_id);
CREATE TABLE votes (a TEXT NOT NULL, b TEXT NOT NULL, winner TEXT NOT NULL, created REAL NOT NULL);
CREATE UNIQUE INDEX one_vote_a_pair ON votes (min(a, b), max(a, b));
CREATE TABLE feedback (
    response_id TEXT PRIMARY KEY, thumb TEXT, tags TEXT NOT NULL, gold TEXT, created REAL NOT NULL);
INSERT INTO conversations VALUES ('c', 1.0, NULL, NULL);
INSERT INTO turns VALUES ('t', 'c', 1, 'Who?', 'Be brief.', '{"seed": 7}', 1.0);
INSERT INTO answers (turn, response_id, pane, model, identity, text) VALUES ('t', 'r', 0, 'm', '{}', 'Ada.');
PRAGMA user_version = 1"""


def test_a_file_of_the_first_version_opens_with_its_answers_and_becomes_one_of_this_version(
    tmp_path, database
):
    path = tmp_path / "first.db"
    connection = sqlite3.connect(path)
    connection.executescript(FIRST)
    connection.close()
    for _ in range(2):
        with History(path) as history:
            (turn,) = history.load_conversation("c").turns
            assert turn.answers == (Answer("r", 0, "m", "Ada.", {}),)
            assert (turn.answers[0].settings, turn.answers[0].sent, turn.answers[0].system) == ({}, (), "")
    grown = Database(path)
    query = "SELECT name, type, [notnull], dflt_value FROM pragma_table_info('answers') ORDER BY name"
    assert list(map(tuple, grown.read(query))) == list(map(tuple, database.read(query)))
    assert grown.read("PRAGMA user_version")[0][0] == 2
    grown.close()
