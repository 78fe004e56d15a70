"""The ledger: what happened, which requests there are, and which samples must never come back. SQLite, one transaction a call.

Events are only ever appended: triggers refuse change, removal and insertion out of order, and each event's digest covers the one
before, so that whoever edits the file anyway breaks the chain. `verify` shows an edit, not a cut at the end: records and backups that
name a later head show that.

Requests change their status; an event beside it says when and why. A request id is taken once in a workspace, whoever sends it: the
stated issuer is part of the signed bytes, so another issuer's request is another body. A closed request's bytes and its issuer are
forgotten, since they name the owner; `secure_delete` has SQLite overwrite them. The digest stays, so a repeated file is still recognised.

Every call opens its own connection: a flow's threads and processes share nothing but the file.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast, get_args

from cdm_core.digests import Digest, Json, canonical_json, json_digest
from cdm_core.errors import RequestRefusedError, StateError, VerificationError
from tasks.workspace import Workspace

Status = Literal["received", "planned", "stopped", "retraining", "needs_review", "held", "completed", "refused", "failed", "rejected"]

OPEN: tuple[Status, ...] = ("received", "planned", "stopped", "retraining")
"""Requests that wait for nothing but a flow; an answer beside such a status is of an earlier round."""

_BUSY_TIMEOUT_SECONDS = 30.0

_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, request_id TEXT, body TEXT NOT NULL, previous TEXT, digest TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY, issuer TEXT, digest TEXT NOT NULL, content BLOB, status TEXT NOT NULL, answer TEXT,
    received_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS suppressed (hmac TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS events_by_request ON events (request_id, kind);
CREATE TRIGGER IF NOT EXISTS events_keep_values BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_keep_rows BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_keep_order BEFORE INSERT ON events
    WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM events) BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the ledger; `digest` covers all the rest, `previous` is the digest of the event before."""

    seq: int
    at: datetime
    kind: str
    request_id: str | None
    body: Mapping[str, Json]
    previous: Digest | None
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """A request that was verified and accepted; `content` and `issuer` are None once they have been forgotten."""

    request_id: str
    issuer: str | None
    digest: Digest
    content: bytes | None
    status: Status
    answer: Mapping[str, Json] | None
    received_at: datetime


class Ledger:
    """The ledger of a workspace, in `ledger.sqlite`, created where it is missing.

    Every method raises StateError where the file can't be read or written.
    """

    def __init__(self, ws: Workspace) -> None:
        self.path = ws.ledger / "ledger.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as connection:
            connection.executescript(_TABLES)

    def append(self, kind: str, request_id: str | None, body: Mapping[str, Json], now: datetime) -> Event:
        """Add an event at the end."""
        with self._transaction() as connection:
            head = connection.execute("SELECT seq, digest FROM events ORDER BY seq DESC LIMIT 1").fetchone() or (0, None)
            row = (head[0] + 1, _format_time(now), kind, request_id, canonical_json(body).decode(), head[1])
            digest = _compute_digest(*row)
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, digest))
        return _read_event((*row, digest))

    def events(self, *, request_id: str | None = None, kind: str | None = None) -> list[Event]:
        """Events, oldest first: all of them, or those of a request, of a kind, or both."""
        query = "SELECT * FROM events WHERE (?1 IS NULL OR request_id = ?1) AND (?2 IS NULL OR kind = ?2) ORDER BY seq"
        with self._connect() as connection:
            return [_read_event(row) for row in connection.execute(query, (request_id, kind))]

    def last(self, kind: str, request_id: str | None) -> Event | None:
        """The newest event of a kind about a request; None as the request means events about none."""
        query = "SELECT * FROM events WHERE kind = ? AND request_id IS ? ORDER BY seq DESC LIMIT 1"
        with self._connect() as connection:
            row = connection.execute(query, (kind, request_id)).fetchone()
        return None if row is None else _read_event(row)

    def verify(self) -> Digest | None:
        """Walk the whole chain and return its head, the digest of the newest event.

        Raises:
            VerificationError: names the first event that doesn't hold.
        """
        with self._connect() as connection:
            rows = connection.execute("SELECT * FROM events ORDER BY seq").fetchall()
        head: Digest | None = None
        for expected_seq, (*row, digest) in enumerate(rows, start=1):
            if row[0] != expected_seq:
                raise VerificationError(f"{self.path}: event {expected_seq} is missing")
            if row[5] != head:
                raise VerificationError(f"{self.path}: event {expected_seq} doesn't follow the event before it")
            if _recompute_digest(row) != digest:
                raise VerificationError(f"{self.path}: event {expected_seq} was changed")
            head = digest
        return head

    def receive(self, request_id: str, issuer: str, digest: Digest, content: bytes, now: datetime) -> StoredRequest:
        """Store a verified request, or return it as it stands if the same bytes were stored before.

        Raises:
            RequestRefusedError: `request_id_reused`: the id is taken by another body.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, 'received', NULL, ?) ON CONFLICT DO NOTHING",
                (request_id, issuer, digest, content, _format_time(now)),
            )
            stored = _read_request(connection.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,)).fetchone())
        if stored.digest != digest:
            raise RequestRefusedError(f"request {request_id}: the id is already taken by another request body", reason="request_id_reused")
        return stored

    def request(self, request_id: str) -> StoredRequest | None:
        """The stored request with this id."""
        with self._connect() as connection:
            row = connection.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,)).fetchone()
        return None if row is None else _read_request(row)

    def requests(self) -> list[StoredRequest]:
        """All stored requests, oldest first."""
        with self._connect() as connection:
            return [_read_request(row) for row in connection.execute("SELECT * FROM requests ORDER BY received_at, rowid")]

    def set_status(self, request_id: str, status: Status, answer: Mapping[str, Json] | None = None) -> None:
        """Set where a request stands and what it was answered; an answer of None leaves the one before.

        Raises:
            ValueError: no such status.
            StateError: no such request.
        """
        if status not in get_args(Status):
            raise ValueError(f"{status!r} is not a status")
        answer_text = None if answer is None else canonical_json(answer).decode()
        self._update(
            "UPDATE requests SET status = ?2, answer = COALESCE(?3, answer) WHERE request_id = ?1", request_id, status, answer_text
        )

    def forget_content(self, request_id: str) -> None:
        """Erase the request's bytes and its issuer; id, digest, status and answer stay.

        Raises:
            StateError: no such request.
        """
        self._update("UPDATE requests SET content = NULL, issuer = NULL WHERE request_id = ?1", request_id)

    def suppress(self, hmacs: Collection[str], now: datetime) -> None:
        """Add keyed hashes of erased samples to the list of what must not come back."""
        with self._transaction() as connection:
            rows = [(value, _format_time(now)) for value in hmacs]
            connection.executemany("INSERT INTO suppressed VALUES (?, ?) ON CONFLICT DO NOTHING", rows)

    def is_suppressed(self, hmacs: Collection[str]) -> set[str]:
        """Those of the keyed hashes that are on the list."""
        query = "SELECT hmac FROM suppressed WHERE hmac IN (SELECT value FROM json_each(?))"
        with self._connect() as connection:
            return {value for (value,) in connection.execute(query, (json.dumps(list(hmacs)),))}

    def _update(self, statement: str, request_id: str, *values: str | None) -> None:
        with self._transaction() as connection:
            if connection.execute(statement, (request_id, *values)).rowcount == 0:
                raise StateError(f"request {request_id}: not in the ledger")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                yield connection
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # ours to mend, not the user's
        except sqlite3.DatabaseError as error:
            raise StateError(f"{self.path}: the ledger can't be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, from the first read on; an exception rolls back as the connection closes."""
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")


def _format_time(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError("a time in the ledger needs a time zone")
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _compute_digest(seq: int, at: str, kind: str, request_id: str | None, body: str, previous: Digest | None) -> Digest:
    return json_digest({"seq": seq, "at": at, "kind": kind, "request_id": request_id, "body": json.loads(body), "previous": previous})


def _recompute_digest(row: list[object]) -> Digest | None:
    """The digest that a stored row should have; None if its body is no longer JSON."""
    try:
        return _compute_digest(*row)  # type: ignore[arg-type]  # STRICT tables keep the column types
    except ValueError:
        return None


def _read_event(row: tuple[int, str, str, str | None, str, Digest | None, Digest]) -> Event:
    seq, at, kind, request_id, body, previous, digest = row
    return Event(
        seq=seq,
        at=datetime.fromisoformat(at),
        kind=kind,
        request_id=request_id,
        body=json.loads(body),
        previous=previous,
        digest=digest,
    )


def _read_request(row: tuple[str, str | None, str, bytes | None, str, str | None, str]) -> StoredRequest:
    request_id, issuer, digest, content, status, answer, received_at = row
    return StoredRequest(
        request_id=request_id,
        issuer=issuer,
        digest=Digest(digest),
        content=content,
        status=cast(Status, status),
        answer=None if answer is None else json.loads(answer),
        received_at=datetime.fromisoformat(received_at),
    )
