"""The playground's memory: keeps conversations, answers, votes and feedback. Knows no page and no model."""

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from sqlite3 import Row
from typing import Any, get_args

from factory import store
from factory.errors import UsageError
from factory.history.database import Database
from factory.history.rows import (
    Answer,
    Conversation,
    Correction,
    Exchange,
    Feedback,
    Summary,
    Tag,
    Thumb,
    Turn,
    Vote,
    VotedPair,
    Winner,
)

TITLE_LENGTH = 60
CONVERSATIONS = """SELECT c.*, count(t.id) AS num_turns, coalesce(first.prompt, '') AS title
FROM conversations c LEFT JOIN turns t ON t.conversation = c.id
LEFT JOIN turns first ON first.conversation = c.id AND first.number = 1
GROUP BY c.id ORDER BY c.created DESC, c.rowid DESC"""
# A branch repeats the answers of its parent under the same ids: any one of them says which model it was.
MODEL = "(SELECT model FROM answers WHERE response_id = {} LIMIT 1)"
VOTES = f"SELECT *, {MODEL.format('a')} AS model_a, {MODEL.format('b')} AS model_b FROM votes ORDER BY created, rowid"
CORRECTIONS = """SELECT f.response_id, f.gold, f.tags, f.created, t.prompt AS question, a.text AS rejected, a.model
FROM feedback f
JOIN answers a ON a.rowid = (SELECT min(rowid) FROM answers WHERE response_id = f.response_id)
JOIN turns t ON t.id = a.turn WHERE f.gold IS NOT NULL ORDER BY f.created, f.rowid"""
VOTED = """SELECT t.prompt AS question, won.text AS chosen, lost.text AS rejected, v.created FROM votes v
JOIN answers won ON won.rowid = (SELECT min(rowid) FROM answers WHERE response_id = iif(v.winner = 'a', v.a, v.b))
JOIN answers lost ON lost.rowid = (SELECT min(rowid) FROM answers WHERE response_id = iif(v.winner = 'a', v.b, v.a))
JOIN turns t ON t.id = won.turn WHERE v.winner IN ('a', 'b') ORDER BY v.created, v.rowid"""
FORGOTTEN = "NOT IN (SELECT response_id FROM answers)"


def default_path() -> Path:
    """Return the file of this user's history, in the cache folder."""
    return store.cache_folder() / "playground.db"


class History:
    """An open history; every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            ArtifactError: the file is something else, or a newer program wrote it.
        """
        self._db = Database(path)

    def __enter__(self) -> "History":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_conversation(self) -> str:
        """Return the id of a new, empty conversation."""
        return self._add_conversation(None, None)

    def add_turn(
        self, conversation: str, prompt: str, system: str = "", settings: Mapping[str, Any] | None = None
    ) -> str:
        """Return the id of a new turn at the end of a conversation; `settings` are those of sampling."""
        with self._db.changing():
            self._need("conversations", "id", conversation)
            (last,) = self._db.read("SELECT max(number) FROM turns WHERE conversation = ?", conversation)
            return self._add_turn(conversation, (last[0] or 0) + 1, prompt, system, settings or {})

    def add_answer(self, turn: str, answer: Answer) -> None:
        """Keep a pane's answer to a turn.

        Raises:
            UsageError: there is no such turn, or the response id is taken.
        """
        with self._db.changing():
            self._need("turns", "id", turn)
            if self._db.read("SELECT 1 FROM answers WHERE response_id = ?", answer.response_id):
                raise UsageError(
                    f"The response {answer.response_id!r} is in the history already: use a new id"
                )
            self._db.insert("answers", {"turn": turn, **asdict(answer)})

    def find_answer(self, response_id: str) -> Exchange | None:
        """Return a response and its question, if it is kept."""
        query = "SELECT t.prompt, a.* FROM answers a JOIN turns t ON t.id = a.turn WHERE a.response_id = ? LIMIT 1"
        rows = [dict(row) for row in self._db.read(query, response_id)]
        return Exchange(rows[0].pop("prompt"), _answer(rows[0])) if rows else None

    def list_conversations(self) -> list[Summary]:
        """Return all conversations, newest first; the title is the first prompt on one line, cut."""
        return [Summary(**{**row, "title": _title(row["title"])}) for row in self._db.read(CONVERSATIONS)]

    def load_conversation(self, conversation: str) -> Conversation:
        """Return a conversation with its turns and answers.

        Raises:
            UsageError: there is no such conversation.
        """
        row = self._need("conversations", "id", conversation)
        query = "SELECT * FROM turns WHERE conversation = ? ORDER BY number"
        turns = tuple(self._turn(found) for found in self._db.read(query, conversation))
        return Conversation(row["id"], row["created"], row["parent"], row["parent_turn"], turns)

    def branch(self, conversation: str, upto_turn: str) -> str:
        """Return the id of a new conversation that begins with the turns up to one, their answers included.

        The answers keep their response ids: they are the same responses, so a vote on them holds in both places.

        Raises:
            UsageError: the conversation has no such turn.
        """
        with self._db.changing():
            whole = self.load_conversation(conversation)
            numbers = [turn.number for turn in whole.turns if turn.id == upto_turn]
            if not numbers:
                raise UsageError(
                    f"Conversation {conversation!r} has no turn {upto_turn!r}: branch at one of its own"
                )
            new = self._add_conversation(conversation, upto_turn)
            for turn in whole.turns[: numbers[0]]:
                copy = self._add_turn(new, turn.number, turn.prompt, turn.system, turn.settings)
                for answer in turn.answers:
                    self._db.insert("answers", {"turn": copy, **asdict(answer)})
        return new

    def delete(self, conversation: str) -> None:
        """Delete a conversation, and votes and feedback on responses that stand in no branch of it.

        Raises:
            UsageError: there is no such conversation.
        """
        with self._db.changing():
            self._need("conversations", "id", conversation)
            self._db.run("DELETE FROM conversations WHERE id = ?", conversation)
            self._db.run(f"DELETE FROM votes WHERE a {FORGOTTEN} OR b {FORGOTTEN}")
            self._db.run(f"DELETE FROM feedback WHERE response_id {FORGOTTEN}")
        self._db.empty_journal()

    def add_vote(self, a: str, b: str, winner: Winner) -> None:
        """Keep a blind vote between two responses.

        Raises:
            UsageError: it is not a vote between two known responses, or there is one on them, in either order.
        """
        _check(winner, get_args(Winner), "vote")
        if a == b:
            raise UsageError(f"A vote needs two responses, both are {a!r}: name the two that were compared")
        with self._db.changing():
            self._need("answers", "response_id", a)
            self._need("answers", "response_id", b)
            if self._db.read("SELECT 1 FROM votes WHERE a IN (?, ?) AND b IN (?, ?)", a, b, a, b):
                raise UsageError(f"There is a vote on {a!r} and {b!r} already: ask again to vote again")
            self._db.insert("votes", {"a": a, "b": b, "winner": winner, "created": time.time()})

    def votes(self) -> list[Vote]:
        """Return all votes, oldest first."""
        return [Vote(**row) for row in self._db.read(VOTES)]

    def voted_pairs(self) -> list[VotedPair]:
        """Return the answers of which a vote preferred one, the oldest vote first."""
        return [VotedPair(**row) for row in self._db.read(VOTED)]

    def add_feedback(
        self, response_id: str, thumb: Thumb | None = None, tags: Iterable[Tag] = (), gold: str | None = None
    ) -> None:
        """Keep what a person says of a response; what was said of it before is replaced.

        Raises:
            UsageError: there is no such response, or a thumb or tag is not one of the known ones.
        """
        if thumb is not None:
            _check(thumb, get_args(Thumb), "thumb")
        chosen = sorted({_check(tag, get_args(Tag), "tag") for tag in tags})
        row = {"response_id": response_id, "thumb": thumb, "tags": chosen, "created": time.time()}
        with self._db.changing():
            self._need("answers", "response_id", response_id)
            self._db.insert("feedback", {**row, "gold": (gold or "").strip() or None}, replace=True)

    def feedback(self, response_id: str) -> Feedback | None:
        """Return what was said of a response, if anything was."""
        rows = self._db.read("SELECT * FROM feedback WHERE response_id = ?", response_id)
        return Feedback(**_with_tags(rows[0])) if rows else None

    def feedback_with_gold(self) -> list[Correction]:
        """Return the answers that a person rewrote, the oldest rewriting first."""
        return [Correction(**_with_tags(row)) for row in self._db.read(CORRECTIONS)]

    def _add_conversation(self, parent: str | None, parent_turn: str | None) -> str:
        row = {"id": uuid.uuid4().hex, "created": time.time(), "parent": parent, "parent_turn": parent_turn}
        self._db.insert("conversations", row)
        return str(row["id"])

    def _add_turn(
        self, conversation: str, number: int, prompt: str, system: str, settings: Mapping[str, Any]
    ) -> str:
        row = {
            "id": uuid.uuid4().hex,
            "conversation": conversation,
            "number": number,
            "prompt": prompt,
            "system": system,
            "settings": settings,
            "created": time.time(),
        }
        self._db.insert("turns", row)
        return str(row["id"])

    def _turn(self, row: Row) -> Turn:
        rows = self._db.read("SELECT * FROM answers WHERE turn = ? ORDER BY rowid", row["id"])
        values = {**row, "settings": json.loads(row["settings"]), "answers": tuple(map(_answer, rows))}
        del values["conversation"]
        return Turn(**values)

    def _need(self, table: str, column: str, value: str) -> Row:
        rows = self._db.read(f"SELECT * FROM {table} WHERE {column} = ? LIMIT 1", value)
        if not rows:
            raise UsageError(f"The history's {table} hold no {value!r}: it may have been deleted")
        return rows[0]


def _answer(row: Mapping[str, Any] | Row) -> Answer:
    values = {**row, **{name: json.loads(row[name]) for name in ("identity", "settings")}}
    values["sent"] = tuple(json.loads(row["sent"]))
    del values["turn"]
    return Answer(**values)


def _with_tags(row: Row) -> dict[str, Any]:
    return {**row, "tags": tuple(json.loads(row["tags"]))}


def _title(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"


def _check(value: str, allowed: tuple[str, ...], what: str) -> str:
    if value not in allowed:
        raise UsageError(f"{value!r} is not a {what}: it is one of {', '.join(allowed)}")
    return value
