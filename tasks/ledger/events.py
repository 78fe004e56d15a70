"""The rows of the ledger's events: how one is written, and how a ledger of the first version, a chain of digests, becomes a tree."""

import json
import secrets
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cdm_core.digests import Digest, Json, canonical_json, json_digest
from cdm_core.errors import VerificationError
from cdm_core.evidence.commitments import SALT_BYTES, OpenedEvent

EventRow = tuple[int, str, str, str | None, str | None, str]
"""seq, at, kind, request_id, body, leaf."""

_TRIGGERS = ("events_keep_values", "events_keep_rows", "events_keep_order")


def format_time(time: datetime) -> str:
    """As events keep it.

    Raises:
        ValueError: the time has no zone.
    """
    if time.tzinfo is None:
        raise ValueError("a time in the ledger needs a time zone")
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def insert_event(connection: sqlite3.Connection, kind: str, request_id: str | None, body: Mapping[str, Json], at: str) -> EventRow:
    """Commit to an event under a new salt and write both, inside the caller's transaction."""
    seq: int = connection.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM events").fetchone()[0]
    salt, text = secrets.token_bytes(SALT_BYTES), canonical_json(body).decode()
    event = OpenedEvent(seq=seq, at=at, kind=kind, request_id=request_id, body=json.loads(text), salt=salt)
    row = (seq, at, kind, request_id, text, event.commitment)
    connection.execute("INSERT INTO salts VALUES (?, ?)", (seq, salt))
    connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
    return row


def is_chained(connection: sqlite3.Connection) -> bool:
    """Whether the events are those of the first version."""
    return any(column[1] == "previous" for column in connection.execute("PRAGMA table_info(events)"))


def migrate_chained_events(connection: sqlite3.Connection, path: Path, tables: str) -> None:
    """Make leaves of a chain's events after checking it; a last event names the chain's head, so that whoever kept it can still compare.

    Raises:
        VerificationError: the chain doesn't hold.
    """
    connection.execute("BEGIN IMMEDIATE")
    if not is_chained(connection):  # another process was first
        connection.execute("ROLLBACK")
        return
    rows = connection.execute("SELECT seq, at, kind, request_id, body, previous, digest FROM events ORDER BY seq").fetchall()
    head: Digest | None = None
    for expected_seq, (seq, at, kind, request_id, body, previous, digest) in enumerate(rows, start=1):
        event = {"seq": seq, "at": at, "kind": kind, "request_id": request_id, "body": json.loads(body), "previous": previous}
        if seq != expected_seq or previous != head or json_digest(event) != digest:
            raise VerificationError(f"{path}: event {expected_seq} doesn't hold; the ledger isn't taken over")
        head = digest
    for trigger in _TRIGGERS:
        connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
    connection.execute("DROP TABLE events")
    for statement in _split(tables):
        connection.execute(statement)
    for _, at, kind, request_id, body, _, _ in rows:
        insert_event(connection, kind, request_id, json.loads(body), at)
    if rows:
        insert_event(connection, "chain_migrated", None, {"events": len(rows), "head": head}, rows[-1][1])
    connection.execute("COMMIT")


def _split(script: str) -> list[str]:
    """The statements of a script, one by one: `executescript` would end the transaction."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements
