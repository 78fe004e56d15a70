"""The suppression list: what was erased on request may not come back.

It holds keyed hashes, of three kinds. Of a sample id: the same picture is refused from anyone. Of an owner key and a sample id: a manifest
that lists this very sample again, after a restore from a backup say, is found without any picture. Of the bands of a perceptual hash
(`cdm_core.perceptual_hash`): a picture of which a variant, shifted by up to two pixels or mirrored, agrees in `suppressed_bands` of 8 bands
with one that was erased is refused as its near copy. How often that finds copies, and how often it hits other pictures, is measured by
`tests/tasks/test_suppression_rates.py` and stands in SECURITY.md.
With the workspace's secret a sample can be tested against the list; the list alone gives no sample back.

The bands lie in a SQLite file of their own beside the ledger: they are matched by number, entry for entry, and the ledger's list by value.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from cdm_core.digests import keyed_hash
from cdm_core.errors import StateError
from cdm_core.perceptual_hash import PerceptualHash, compute_bands, compute_variant_hashes
from tasks.keys import owner_secret
from tasks.ledger import Ledger
from tasks.manifest_store import load_manifest
from tasks.workspace import Workspace

_TABLE = "CREATE TABLE IF NOT EXISTS bands (entry TEXT NOT NULL, hmac TEXT NOT NULL, PRIMARY KEY (hmac, entry)) STRICT, WITHOUT ROWID"


def suppression_hash(ws: Workspace, sample_id: str) -> str:
    """What the list holds of a sample."""
    return keyed_hash(owner_secret(ws), "suppressed", sample_id)


def erasure_hash(ws: Workspace, owner_key: str, sample_id: str) -> str:
    """What the list holds of one owner's sample: another owner's equal picture stays where nobody asked for its erasure."""
    return keyed_hash(owner_secret(ws), "erased", owner_key, sample_id)


def perceptual_bands(ws: Workspace, value: int | None) -> tuple[str, ...]:
    """What the list holds of a picture's look; nothing of a picture that shows nothing."""
    return () if value is None else tuple(compute_bands(owner_secret(ws), PerceptualHash(value)))


def suppress_bands(ws: Workspace, entries: Collection[tuple[str, Sequence[str]]]) -> None:
    """Add (suppression hash, bands) of erased samples."""
    with _connect(ws) as connection, connection:
        connection.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(name, band) for name, bands in entries for band in bands])


def is_near_suppressed(ws: Workspace, picture: np.ndarray, enough: int | None = None) -> bool:
    """Whether a variant of uint8 [3, 32, 32] agrees in enough bands with one picture that was erased; None for the workspace's number."""
    if not _path(ws).is_file():
        return False
    variants = [set(perceptual_bands(ws, value)) for value in compute_variant_hashes(picture)]
    asked = json.dumps(sorted(set().union(*variants)))
    listed: dict[str, set[str]] = defaultdict(set)
    with _connect(ws) as connection:
        for entry, hmac in connection.execute("SELECT entry, hmac FROM bands WHERE hmac IN (SELECT value FROM json_each(?))", (asked,)):
            listed[entry].add(hmac)
    enough = ws.settings().duplicates.suppressed_bands if enough is None else enough
    return any(len(bands & variant) >= enough for bands in listed.values() if len(bands) >= enough for variant in variants)


def refuse_resurrected(ws: Workspace) -> None:
    """Return if no manifest lists a sample that was erased on request.

    Raises:
        StateError: one does; names shard and count.
    """
    ledger = Ledger(ws)
    for shard in ws.settings().shard_ids:
        manifest = load_manifest(ws, shard)
        hashes = [erasure_hash(ws, owner, sample) for owner, sample in zip(manifest["owner_key"], manifest["sample_id"], strict=True)]
        if found := ledger.is_suppressed(hashes):
            raise StateError(
                f"shard {shard}: {len(found)} of {len(manifest)} samples were erased on request and are back, from a backup perhaps; "
                f"restore the data revision that followed the erasure"
            )


@contextmanager
def _connect(ws: Workspace) -> Iterator[sqlite3.Connection]:
    path = _path(ws)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=30.0)) as connection:
            connection.execute(_TABLE)
            yield connection
    except sqlite3.DatabaseError as error:
        raise StateError(f"{path}: can't be read or written: {error}") from error


def _path(ws: Workspace) -> Path:
    return ws.ledger / "suppressed-bands.sqlite"
