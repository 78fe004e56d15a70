"""The ledger: what happened, which requests there are, and which samples must never come back. SQLite, one transaction a call.

Events are only ever appended: triggers refuse change, removal and insertion out of order. Each event is a leaf of an RFC 6962 tree, a
salted commitment (`cdm_core.evidence.commitments`) to its content; salts lie in a table of their own. `verify` compares the events with
their leaves, and the tree with every checkpoint that was signed (`tasks.ledger.tree_heads`), so that an edit, a cut at the end and a
rollback are seen.

`unlink` destroys the salts, bodies and request ids of a closed request's events. Their leaves, kinds and times stay, so no proof breaks,
and nothing in the ledger leads from the leaves to a person. Flows need a case's bodies until it's closed, so it's done on demand only
(`tasks.ledger.unlinking`). An event counts what was unlinked, so that salts destroyed by hand are noticed.

Requests change their status and the suppression list grows; an event after each change commits to the new state (`tasks.ledger.states`),
so that `verify` finds an edited status, answer or list too. A request id is taken once in a workspace, whoever sends it: the
stated issuer is part of the signed bytes, so another issuer's request is another body. A closed request's bytes and its issuer are
forgotten, since they name the owner; `secure_delete` has SQLite overwrite them. The digest stays, so a repeated file is still recognised.

Every call opens its own connection: a flow's threads and processes share nothing but the file.
"""

import json
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, cast, get_args

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, canonical_json
from cdm_core.errors import RequestRefusedError, StateError, VerificationError
from cdm_core.evidence.commitments import OpenedEvent
from cdm_core.evidence.merkle import build_consistency_proof, build_inclusion_proof, compute_root, hash_leaf, iterate_roots
from cdm_core.evidence.signed_note import LogProof, verify_checkpoint
from tasks.clock import utc_now
from tasks.keys import load_record_keys
from tasks.ledger.events import EventRow, format_time, insert_event, is_chained, migrate_chained_events
from tasks.ledger.states import check_states, commit_state, commit_suppression, is_taken_over, take_over_states
from tasks.ledger.tree_heads import check_heads, count_signed, heads_lock, sign_head
from tasks.workspace import Workspace

Status = Literal["received", "planned", "stopped", "retraining", "needs_review", "held", "completed", "refused", "failed", "rejected"]

OPEN: tuple[Status, ...] = ("received", "planned", "stopped", "retraining")
"""Requests that wait for nothing but a flow; an answer beside such a status is of an earlier round."""

CLOSED: tuple[Status, ...] = ("completed", "refused", "failed", "rejected")

UNLINKED_EVENT = "unlinked"

_BUSY_TIMEOUT_SECONDS = 30.0
_LEAF = re.compile("[0-9a-f]{64}")

_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, request_id TEXT, body TEXT, leaf TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS salts (seq INTEGER PRIMARY KEY, salt BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY, issuer TEXT, digest TEXT NOT NULL, content BLOB, status TEXT NOT NULL, answer TEXT,
    received_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS suppressed (hmac TEXT PRIMARY KEY, at TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS events_by_request ON events (request_id, kind);
CREATE TRIGGER IF NOT EXISTS events_keep_values BEFORE UPDATE ON events
    WHEN NOT (
        NEW.seq IS OLD.seq AND NEW.at IS OLD.at AND NEW.kind IS OLD.kind AND NEW.leaf IS OLD.leaf AND NEW.body IS NULL
        AND NEW.request_id IS NULL AND NOT EXISTS (SELECT 1 FROM salts WHERE seq = OLD.seq)
    ) BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_keep_rows BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_keep_order BEFORE INSERT ON events
    WHEN NEW.seq IS NOT (SELECT COALESCE(MAX(seq), 0) + 1 FROM events) BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS salts_keep_values BEFORE UPDATE ON salts BEGIN SELECT RAISE(ABORT, 'salts are never changed'); END;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the ledger; `digest` is its leaf in the tree, a salted commitment to all the rest."""

    seq: int
    at: datetime
    kind: str
    request_id: str | None
    body: Mapping[str, Json]
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
        self._ws = ws
        self.path = ws.ledger / "ledger.sqlite"
        self._shared: sqlite3.Connection | None = None  # while a transaction of several writes is open
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as connection:
            if is_chained(connection):
                migrate_chained_events(connection, self.path, _TABLES)
            connection.executescript(_TABLES)
            if not is_taken_over(connection):
                connection.execute("BEGIN IMMEDIATE")
                take_over_states(connection, format_time(utc_now()))
                connection.execute("COMMIT")

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written through this object within is one transaction: afterwards all of it is there, or after an exception nothing.

        Writes through another object wait until it has ended, so within it there must be none.
        """
        with self._transaction() as connection:
            self._shared = connection
            try:
                yield
            finally:
                self._shared = None

    def append(self, kind: str, request_id: str | None, body: Mapping[str, Json], now: datetime) -> Event:
        """Add an event at the end."""
        with self._transaction() as connection:
            return _read_event(insert_event(connection, kind, request_id, body, format_time(now)))

    def events(self, *, request_id: str | None = None, kind: str | None = None) -> list[Event]:
        """Events, oldest first: all of them, or those of a request, of a kind, or both; unlinked ones tell nothing and are left out."""
        query = "SELECT * FROM events WHERE body IS NOT NULL AND (?1 IS NULL OR request_id = ?1) AND (?2 IS NULL OR kind = ?2) ORDER BY seq"
        with self._connect() as connection:
            return [_read_event(row) for row in connection.execute(query, (request_id, kind))]

    def last(self, kind: str, request_id: str | None) -> Event | None:
        """The newest event of a kind about a request; None as the request means events about none."""
        query = "SELECT * FROM events WHERE body IS NOT NULL AND kind = ? AND request_id IS ? ORDER BY seq DESC LIMIT 1"
        with self._connect() as connection:
            row = connection.execute(query, (kind, request_id)).fetchone()
        return None if row is None else _read_event(row)

    def verify(self) -> Digest | None:
        """Compare every event with its leaf, every request with the events that tell of it, and the tree with all signed checkpoints.

        Returns the tree's root, None if it's empty.

        Raises:
            VerificationError: names the first event, request or checkpoint that doesn't hold.
        """
        roots = self.verified_roots()
        return Digest(roots[-1].hex()) if len(roots) > 1 else None

    def verified_roots(self) -> list[bytes]:
        """The tree's root at every size from 0 on, after `verify`."""
        with heads_lock(self._ws):
            return self._verify()

    def count_signed(self, keys: Sequence[Key]) -> int:
        """How many events, from the first on, a checkpoint stands for that one of the keys signed; ask it of a ledger that was verified."""
        return count_signed(self._ws, keys)

    def sign_checkpoint(self) -> bytes:
        """Sign the tree as it stands, after checking it; the same tree again gives the same checkpoint.

        Raises:
            VerificationError: the ledger doesn't hold, or doesn't continue what was signed before.
        """
        with heads_lock(self._ws):
            return sign_head(self._ws, self._verify())

    def describe(self) -> dict[str, Json]:
        """Size and root of the tree, for a record to name."""
        hashes = self._leaf_hashes()
        return {"size": len(hashes), "root": compute_root(hashes).hex()}

    def prove(self, seq: int) -> LogProof:
        """That the tree under a checkpoint signed now holds the event.

        Raises:
            StateError: no such event.
        """
        content = self.sign_checkpoint()
        size = verify_checkpoint(content, load_record_keys(self._ws.keys)).size
        if not 1 <= seq <= size:
            raise StateError(f"{self.path}: there is no event {seq}")
        return LogProof(index=seq - 1, hashes=tuple(build_inclusion_proof(self._leaf_hashes()[:size], seq - 1)), checkpoint=content)

    def prove_consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """That the tree of the first `old_size` events is the beginning of that of the first `new_size`.

        Raises:
            StateError: there was no such tree.
        """
        hashes = self._leaf_hashes()
        if not 0 < old_size <= new_size <= len(hashes):
            raise StateError(f"{self.path}: has {len(hashes)} events; no proof leads from {old_size} to {new_size}")
        return build_consistency_proof(hashes[:new_size], old_size)

    def open_event(self, seq: int) -> OpenedEvent:
        """An event with its salt, for whoever is to check its leaf.

        Raises:
            StateError: no such event, or it was unlinked.
        """
        with self._connect() as connection:
            row = connection.execute("SELECT events.*, salt FROM events JOIN salts USING (seq) WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            raise StateError(f"{self.path}: event {seq} isn't there or was unlinked")
        return _open_row(row[:6], row[6])

    def unlink(self, request_ids: Collection[str], keep: Collection[str], now: datetime) -> int:
        """Destroy what leads from closed requests' events to them, and their rows, all at once; returns how many events that were.

        Args:
            request_ids: cases of the ledger.
            keep: keyed hashes for the suppression list, by which the requests are known if they come again.
            now: when; an event without a request says it, and how many were unlinked.

        Raises:
            StateError: no such request, or one isn't closed.
            VerificationError: the ledger doesn't hold; what can't be opened any more must have been signed before.
        """
        for request_id in request_ids:
            stored = self.request(request_id)
            if stored is None:
                raise StateError(f"request {request_id}: not in the ledger")
            if stored.status not in CLOSED:
                raise StateError(f"request {request_id}: is not closed; its status is {stored.status}")
        signed_size = verify_checkpoint(self.sign_checkpoint(), load_record_keys(self._ws.keys)).size
        at = format_time(now)
        with self._transaction() as connection:
            count = 0
            for request_id in request_ids:
                last = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM events WHERE request_id = ?", (request_id,)).fetchone()[0]
                if last > signed_size:
                    raise StateError(f"request {request_id}: something was noted of it just now; try again")
                connection.execute("DELETE FROM salts WHERE seq IN (SELECT seq FROM events WHERE request_id = ?)", (request_id,))
                count += connection.execute("UPDATE events SET body = NULL, request_id = NULL WHERE request_id = ?", (request_id,)).rowcount
                connection.execute("DELETE FROM requests WHERE request_id = ?", (request_id,))
            insert_event(connection, UNLINKED_EVENT, None, {"events": count}, at)
            _suppress(connection, keep, at)
        return count

    def _leaf_hashes(self) -> list[bytes]:
        with self._connect() as connection:
            return [hash_leaf(bytes.fromhex(leaf)) for (leaf,) in connection.execute("SELECT leaf FROM events ORDER BY seq")]

    def _verify(self) -> list[bytes]:
        """The tree's root at every size, after all that `verify` compares."""
        roots = self._read_roots()
        heads = check_heads(self._ws, roots)
        with self._connect() as connection:
            unlinked, last = connection.execute("SELECT COUNT(*), COALESCE(MAX(seq), 0) FROM events WHERE body IS NULL").fetchone()
            told = connection.execute("SELECT body FROM events WHERE kind = ? AND body IS NOT NULL", (UNLINKED_EVENT,)).fetchall()
        if last > (heads[-1].size if heads else 0):
            raise VerificationError(f"{self.path}: event {last} can't be opened, and no checkpoint holds it")
        if (counted := sum(self._read_count(body) for (body,) in told)) != unlinked:
            raise VerificationError(f"{self.path}: {unlinked} events can't be opened, and {counted} were unlinked")
        return roots

    def _read_count(self, body: str) -> int:
        match json.loads(body):
            case {"events": int(count)}:
                return count
        raise VerificationError(f"{self.path}: an event of unlinking says no count")

    def _read_roots(self) -> list[bytes]:
        """The tree's root at every size, after every event that can still be opened was compared with its leaf."""
        query = "SELECT events.*, salt FROM events LEFT JOIN salts USING (seq) ORDER BY seq"
        with self._connect() as connection:
            connection.execute("BEGIN")  # one state of the file for all that is read
            # Values of another type than their column's, and an index that isn't its table's: no reader below expects them.
            if (found := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
                raise VerificationError(f"{self.path}: is damaged: {str(found).splitlines()[-1]}")
            rows = connection.execute(query).fetchall()
            stray = connection.execute("SELECT COUNT(*) FROM salts WHERE seq NOT IN (SELECT seq FROM events)").fetchone()[0]
            self._check_leaves(rows, stray)
            check_states(connection, self.path)
        return list(iterate_roots([hash_leaf(bytes.fromhex(row[5])) for row in rows]))

    def _check_leaves(self, rows: Sequence[tuple[Any, ...]], stray: int) -> None:
        for expected_seq, (*row, salt) in enumerate(rows, start=1):
            if row[0] != expected_seq:
                raise VerificationError(f"{self.path}: event {expected_seq} is missing")
            if not _fits_leaf(tuple(row), salt):
                raise VerificationError(f"{self.path}: event {expected_seq} was changed")
        if stray:
            raise VerificationError(f"{self.path}: {stray} salts belong to no event")

    def receive(self, request_id: str, issuer: str, digest: Digest, content: bytes, now: datetime) -> StoredRequest:
        """Store a verified request, or return it as it stands if the same bytes were stored before.

        Raises:
            RequestRefusedError: `request_id_reused`: the id is taken by another body.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, 'received', NULL, ?) ON CONFLICT DO NOTHING",
                (request_id, issuer, digest, content, format_time(now)),
            )
            commit_state(connection, request_id, format_time(utc_now()))
            stored = _read_request(connection.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,)).fetchone())
        if stored.digest != digest:
            raise RequestRefusedError(f"request {request_id}: the id is already taken by another request body", reason="request_id_reused")
        return stored

    def request(self, request_id: str) -> StoredRequest | None:
        """The stored request with this id."""
        with self._connect() as connection:
            row = connection.execute("SELECT * FROM requests WHERE request_id = ?", (request_id,)).fetchone()
        return None if row is None else _read_request(row)

    def requests(self, *, status: Status | None = None, with_content: bool = False) -> list[StoredRequest]:
        """Stored requests, oldest first: all of them, those that stand there, those whose bytes are kept, or both."""
        query = "SELECT * FROM requests WHERE (?1 IS NULL OR status = ?1) AND (content IS NOT NULL OR NOT ?2) ORDER BY received_at, rowid"
        with self._connect() as connection:
            return [_read_request(row) for row in connection.execute(query, (status, with_content))]

    def requests_named(self, request_id: str) -> list[StoredRequest]:
        """The requests that came under an id, of which there may be one from each issuer; or the one with that id here."""
        return [stored for stored in self.requests() if request_id in (stored.request_id, stored.request_id.partition("@")[0])]

    def set_status(self, request_id: str, status: Status, answer: Mapping[str, Json] | None = None) -> None:
        """Set where a request stands and what it was answered; an answer of None leaves the one before.

        Raises:
            ValueError: no such status.
            StateError: no such request.
        """
        if status not in get_args(Status):
            raise ValueError(f"{status!r} is not a status")
        answer_text = None if answer is None else canonical_json(answer).decode()
        with self._transaction() as connection:
            statement = "UPDATE requests SET status = ?2, answer = COALESCE(?3, answer) WHERE request_id = ?1"
            if connection.execute(statement, (request_id, status, answer_text)).rowcount == 0:
                raise StateError(f"request {request_id}: not in the ledger")
            commit_state(connection, request_id, format_time(utc_now()))

    def forget_content(self, request_id: str) -> None:
        """Erase the request's bytes and its issuer; id, digest, status and answer stay.

        Raises:
            StateError: no such request.
        """
        with self._transaction() as connection:
            statement = "UPDATE requests SET content = NULL, issuer = NULL WHERE request_id = ?"
            if connection.execute(statement, (request_id,)).rowcount == 0:
                raise StateError(f"request {request_id}: not in the ledger")

    def suppress(self, hmacs: Collection[str], now: datetime) -> None:
        """Add keyed hashes of erased samples to the list of what must not come back."""
        with self._transaction() as connection:
            _suppress(connection, hmacs, format_time(now))

    def is_suppressed(self, hmacs: Collection[str]) -> set[str]:
        """Those of the keyed hashes that are on the list."""
        query = "SELECT hmac FROM suppressed WHERE hmac IN (SELECT value FROM json_each(?))"
        with self._connect() as connection:
            return {value for (value,) in connection.execute(query, (json.dumps(list(hmacs)),))}

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        if self._shared is not None:
            yield self._shared
            return
        try:
            with closing(sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                yield connection
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # ours to mend, not the user's
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: what SQLite says of a schema that isn't text
            raise StateError(f"{self.path}: the ledger can't be used: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, from the first read on; an exception rolls back as the connection closes."""
        if self._shared is not None:
            yield self._shared
            return
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")


def _suppress(connection: sqlite3.Connection, hmacs: Collection[str], at: str) -> None:
    connection.executemany("INSERT INTO suppressed VALUES (?, ?) ON CONFLICT DO NOTHING", [(value, at) for value in hmacs])
    commit_suppression(connection, at)


@lru_cache(maxsize=1 << 16)
def _fits_leaf(row: EventRow, salt: bytes | None) -> bool:
    """Whether a stored event is what its leaf commits to; an unlinked one has neither salt nor body nor request.

    A function of its arguments alone, and a flow asks of all events with each record that it signs: what was compared isn't hashed again.
    """
    if not _LEAF.fullmatch(row[5]):
        return False
    if salt is None:
        return row[3] is None and row[4] is None
    try:
        return _open_row(row, salt).commitment == row[5]
    except (ValueError, TypeError, RecursionError):
        return False


def _open_row(row: EventRow, salt: bytes) -> OpenedEvent:
    seq, at, kind, request_id, body, _ = row
    return OpenedEvent(seq=seq, at=at, kind=kind, request_id=request_id, body=json.loads(body or ""), salt=salt)


def _read_event(row: EventRow) -> Event:
    seq, at, kind, request_id, body, leaf = row
    assert body is not None, "unlinked events are left out"
    return Event(seq=seq, at=datetime.fromisoformat(at), kind=kind, request_id=request_id, body=json.loads(body), digest=Digest(leaf))


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
