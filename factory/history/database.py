"""One SQLite file that threads and processes share: opened, checked, changed all or nothing. Knows no question."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.errors import ArtifactError

SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 10.0
# WAL lets one process read while another writes, and is whole after a power cut without a flush at every change;
# what is deleted is overwritten, not only unlinked.
PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "secure_delete = ON")
SCHEMA = (
    "CREATE TABLE conversations (id TEXT PRIMARY KEY, created REAL NOT NULL, parent TEXT, parent_turn TEXT)",
    """CREATE TABLE turns (
    id TEXT PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    number INTEGER NOT NULL, prompt TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL,
    created REAL NOT NULL, UNIQUE (conversation, number))""",
    """CREATE TABLE answers (
    turn TEXT NOT NULL REFERENCES turns ON DELETE CASCADE, response_id TEXT NOT NULL, pane INTEGER NOT NULL,
    model TEXT NOT NULL, identity TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT, ttft_s REAL,
    tokens_per_s REAL, prompt_tokens INTEGER, completion_tokens INTEGER, cost REAL, error TEXT,
    instead_of TEXT NOT NULL, settings TEXT NOT NULL, sent TEXT NOT NULL,
    UNIQUE (turn, response_id))""",
    "CREATE INDEX answers_by_id ON answers (response_id)",
    "CREATE TABLE votes (a TEXT NOT NULL, b TEXT NOT NULL, winner TEXT NOT NULL, created REAL NOT NULL)",
    "CREATE UNIQUE INDEX one_vote_a_pair ON votes (min(a, b), max(a, b))",
    """CREATE TABLE feedback (
    response_id TEXT PRIMARY KEY, thumb TEXT, tags TEXT NOT NULL, gold TEXT, created REAL NOT NULL)""",
)


class Database:
    """An open file of the history's schema; every method may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open the file; one that is made can be read by its owner alone.

        Raises:
            ArtifactError: the file is something else, or another version of the program wrote it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        try:
            for pragma in PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            self._prepare(path)
        except sqlite3.DatabaseError as error:
            self.close()
            raise ArtifactError(
                f"{str(path)!r} cannot be opened as a playground history ({error}): name another file, or move it away"
            ) from error
        except ArtifactError:
            self.close()
            raise

    def _prepare(self, path: Path) -> None:
        with self.changing():
            version = self.read("PRAGMA user_version")[0][0]
            if version not in (0, SCHEMA_VERSION):
                raise ArtifactError(
                    f"{str(path)!r} has schema version {version}, this program knows {SCHEMA_VERSION} alone: "
                    "move it away, or take the program that wrote it"
                )
            if version == 0:
                if self.read("SELECT 1 FROM sqlite_master"):
                    raise ArtifactError(f"{str(path)!r} is another program's database: name another file")
                for statement in SCHEMA:
                    self.run(statement)
                self.run(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make the changes of the block together or not at all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: Any) -> None:
        """Run one statement that returns nothing."""
        with self._lock:
            self._connection.execute(statement, values)

    def insert(self, table: str, row: Mapping[str, Any], *, replace: bool = False) -> None:
        """Add a row by column; mappings and sequences become JSON. With `replace`, one of the same key goes away."""
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        self.run(f"{verb} INTO {table} ({columns}) VALUES ({marks})", *map(_storable, row.values()))

    def empty_journal(self) -> None:
        """Move everything into the file itself, so that deleted text stays in no journal."""
        self.read("PRAGMA wal_checkpoint(TRUNCATE)")


def _storable(value: Any) -> Any:
    if isinstance(value, Mapping | list | tuple):
        value = json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)
    if isinstance(value, str):  # half a character cannot be stored
        return value.encode("utf-8", "replace").decode()
    return value
