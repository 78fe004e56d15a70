"""The bands of erased pictures' perceptual hashes: a SQLite file beside the ledger, in which they are matched by number, entry for entry.

After every addition an event of the ledger says how many rows there are and what they hash to, so that rows taken out or added by hand are
found by `lethe verify`. A list of an earlier release, of which no event tells, is taken as it stands until the next addition.
"""

import hashlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from cdm_core.digests import Json
from cdm_core.errors import StateError, VerificationError
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

BANDS_EVENT = "suppressed_bands"

_TABLE = "CREATE TABLE IF NOT EXISTS bands (entry TEXT NOT NULL, hmac TEXT NOT NULL, PRIMARY KEY (hmac, entry)) STRICT, WITHOUT ROWID"


def add_bands(ws: Workspace, entries: Collection[tuple[str, Sequence[str]]], now: datetime) -> None:
    """Add (name of the entry, its bands), and let the ledger know."""
    with _connect(ws) as connection, connection:
        connection.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(name, band) for name, bands in entries for band in bands])
    state, ledger = _describe(ws), Ledger(ws)
    last = ledger.last(BANDS_EVENT, None)
    if last is None or last.body != state:
        ledger.append(BANDS_EVENT, None, state, now)


def find_bands(ws: Workspace, hmacs: Collection[str]) -> Mapping[str, set[str]]:
    """Those of the keyed hashes that are listed, by entry."""
    listed: dict[str, set[str]] = defaultdict(set)
    if path_of(ws).is_file():
        query = "SELECT entry, hmac FROM bands WHERE hmac IN (SELECT value FROM json_each(?))"
        with _connect(ws) as connection:
            for entry, hmac in connection.execute(query, (json.dumps(sorted(hmacs)),)):
                listed[entry].add(hmac)
    return listed


def check_bands(ws: Workspace, ledger: Ledger) -> None:
    """Return if the list is what the ledger tells of.

    Raises:
        VerificationError: rows were changed, taken out or added.
    """
    last = ledger.last(BANDS_EVENT, None)
    if last is not None and (not path_of(ws).is_file() or last.body != _describe(ws)):
        raise VerificationError(f"{path_of(ws)}: the perceptual suppression list isn't what the ledger tells of")


def path_of(ws: Workspace) -> Path:
    """Where the list lies."""
    return ws.ledger / "suppressed-bands.sqlite"


def _describe(ws: Workspace) -> dict[str, Json]:
    hashed, count = hashlib.sha256(), 0
    with _connect(ws) as connection:
        for entry, hmac in connection.execute("SELECT entry, hmac FROM bands ORDER BY hmac, entry"):
            hashed.update(f"{entry} {hmac}\n".encode())
            count += 1
    return {"rows": count, "digest": hashed.hexdigest()}


@contextmanager
def _connect(ws: Workspace) -> Iterator[sqlite3.Connection]:
    path = path_of(ws)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=30.0)) as connection:
            connection.execute(_TABLE)
            yield connection
    except sqlite3.DatabaseError as error:
        raise StateError(f"{path}: can't be read or written: {error}") from error
