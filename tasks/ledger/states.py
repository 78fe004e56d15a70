"""What the ledger's tree holds of the rows that change: where each request stands and what it was answered, and the suppression list.

Every change is followed, in the same transaction, by an event that names the digest of the new state: of a request its status, answer,
body's digest and time of receipt (`status`), of the list all its entries (`suppression`). Like every event it is a leaf, a salted
commitment. So a row that was edited, added or taken out by hand differs from the last event that tells of it, and `check_states` finds it.

A ledger of an earlier release has no such events. They are made once, of what stands there: from then on it can't be changed unseen.
"""

import hashlib
import json
import sqlite3
from pathlib import Path

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import VerificationError
from tasks.ledger.events import insert_event

STATUS_EVENT = "status"
SUPPRESSION_EVENT = "suppression"

_State = dict[str, Json]


def commit_state(connection: sqlite3.Connection, request_id: str, at: str) -> None:
    """Append the event of a request's state, unless the last one tells of the same."""
    row = connection.execute(f"{_REQUESTS} WHERE request_id = ?", (request_id,)).fetchone()
    query = "SELECT body FROM events WHERE body IS NOT NULL AND kind = ? AND request_id = ? ORDER BY seq DESC LIMIT 1"
    last = connection.execute(query, (STATUS_EVENT, request_id)).fetchone()
    state = _describe(row[1:])
    if last is None or json.loads(last[0]) != state:
        insert_event(connection, STATUS_EVENT, request_id, state, at)


def commit_suppression(connection: sqlite3.Connection, at: str) -> None:
    """Append the event of the suppression list as it stands, unless the last one tells of the same."""
    state = _describe_list(connection)
    if _last_list(connection) != state and (state["entries"] or _has_event(connection, SUPPRESSION_EVENT)):
        insert_event(connection, SUPPRESSION_EVENT, None, state, at)


def take_over_states(connection: sqlite3.Connection, at: str) -> None:
    """Make the events of a ledger that has none, inside the caller's transaction."""
    if is_taken_over(connection):
        return
    for (request_id,) in connection.execute("SELECT request_id FROM requests ORDER BY received_at, rowid").fetchall():
        commit_state(connection, request_id, at)
    commit_suppression(connection, at)


def is_taken_over(connection: sqlite3.Connection) -> bool:
    """Whether there is nothing for `take_over_states` to do: one event of either kind shows that this release has written here."""
    if _has_event(connection, STATUS_EVENT) or _has_event(connection, SUPPRESSION_EVENT):
        return True
    return not any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in ("requests", "suppressed"))


def check_states(connection: sqlite3.Connection, path: Path) -> None:
    """Compare every request, and the list, with the last event that tells of it; the events themselves were compared with their leaves.

    Raises:
        VerificationError: names the first that differs.
    """
    query = "SELECT request_id, body FROM events WHERE body IS NOT NULL AND kind = ? ORDER BY seq"
    told = {request_id: json.loads(body) for request_id, body in connection.execute(query, (STATUS_EVENT,))}
    for request_id, *row in connection.execute(_REQUESTS).fetchall():
        if told.pop(request_id, None) != _describe(row):
            raise VerificationError(f"{path}: request {request_id}: its status or answer isn't what the events tell of")
        found = connection.execute("SELECT content FROM requests WHERE request_id = ?", (request_id,)).fetchone()
        if found is None:
            raise VerificationError(f"{path}: request {request_id}: is in the table and not in its index")
        if found[0] and sha256_digest(found[0]) != row[0]:
            raise VerificationError(f"{path}: request {request_id}: its bytes were changed")
    if told:
        raise VerificationError(f"{path}: request {min(told)}: the events tell of it and it is gone")
    if (last := _last_list(connection)) is not None and last != _describe_list(connection):
        raise VerificationError(f"{path}: the suppression list isn't what the events tell of")
    if last is None and connection.execute("SELECT 1 FROM suppressed LIMIT 1").fetchone():
        raise VerificationError(f"{path}: the suppression list has entries, and no event tells of them")


_REQUESTS = "SELECT request_id, digest, received_at, status, answer FROM requests"


def _describe(row: tuple[str, str, str, str | None] | list[str | None]) -> _State:
    digest, received_at, status, answer = row
    answer_digest = None if answer is None else sha256_digest(answer.encode())
    return {"digest": digest, "received_at": received_at, "status": status, "answer": answer_digest}


def _describe_list(connection: sqlite3.Connection) -> _State:
    hashed, count = hashlib.sha256(), 0
    for hmac, at in connection.execute("SELECT hmac, at FROM suppressed ORDER BY hmac"):
        hashed.update(f"{hmac} {at}\n".encode())
        count += 1
    return {"entries": count, "digest": Digest(hashed.hexdigest())}


def _last_list(connection: sqlite3.Connection) -> _State | None:
    query = "SELECT body FROM events WHERE body IS NOT NULL AND kind = ? AND request_id IS NULL ORDER BY seq DESC LIMIT 1"
    row = connection.execute(query, (SUPPRESSION_EVENT,)).fetchone()
    return None if row is None else dict(json.loads(row[0]))


def _has_event(connection: sqlite3.Connection, kind: str) -> bool:
    return connection.execute("SELECT 1 FROM events WHERE kind = ? LIMIT 1", (kind,)).fetchone() is not None
