"""The suppression list: what was erased on request may not come back.

It holds keyed hashes, of three kinds. Of a sample id: the same picture is refused from anyone. Of an owner key and a sample id: a manifest
that lists this very sample again, after a restore from a backup say, is found without any picture. Of the bands of a perceptual hash
(`cdm_core.evaluation.perceptual_hash`): a picture of which a variant, shifted by up to two pixels or mirrored, agrees in `suppressed_bands`
of 8 bands with one that was erased is refused as its near copy. How often that finds copies, and how often it hits other pictures, is
measured by `tests/tasks/deletion/test_suppression_rates.py` and stands in SECURITY.md. With the workspace's secret a sample can be tested
against the list; the list alone gives no sample back.

The bands lie in a file of their own (`tasks.deletion.suppressed_bands`).
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

import numpy as np

from cdm_core.digests import keyed_hash
from cdm_core.errors import StateError
from cdm_core.evaluation.perceptual_hash import PerceptualHash, compute_bands, compute_variant_hashes
from tasks.data.manifest_store import load_manifest
from tasks.deletion.suppressed_bands import add_bands, find_bands, path_of
from tasks.keys import owner_secret
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace


def suppression_hash(ws: Workspace, sample_id: str) -> str:
    """What the list holds of a sample."""
    return keyed_hash(owner_secret(ws), "suppressed", sample_id)


def erasure_hashes(ws: Workspace, samples: Iterable[tuple[str, str]]) -> list[str]:
    """What the list holds of (owner key, sample id): another owner's equal picture stays where nobody asked for its erasure."""
    secret = owner_secret(ws)
    return [keyed_hash(secret, "erased", owner_key, sample_id) for owner_key, sample_id in samples]


def perceptual_bands(ws: Workspace, value: int | None) -> tuple[str, ...]:
    """What the list holds of a picture's look; nothing of a picture that shows nothing."""
    return () if value is None else tuple(compute_bands(owner_secret(ws), PerceptualHash(value)))


def suppress_bands(ws: Workspace, entries: Collection[tuple[str, Sequence[str]]], now: datetime) -> None:
    """Add (suppression hash, bands) of erased samples."""
    add_bands(ws, entries, now)


def is_near_suppressed(ws: Workspace, picture: np.ndarray, enough: int | None = None) -> bool:
    """Whether a variant of uint8 [3, 32, 32] agrees in enough bands with one picture that was erased; None for the workspace's number."""
    if not path_of(ws).is_file():
        return False
    variants = [set(perceptual_bands(ws, value)) for value in compute_variant_hashes(picture)]
    listed = find_bands(ws, set().union(*variants))
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
        hashes = erasure_hashes(ws, zip(manifest["owner_key"], manifest["sample_id"], strict=True))
        if found := ledger.is_suppressed(hashes):
            raise StateError(
                f"shard {shard}: {len(found)} of {len(manifest)} samples were erased on request and are back, from a backup perhaps; "
                f"restore the data revision that followed the erasure"
            )
