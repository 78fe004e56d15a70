"""Samples come and go: packs and manifests of a workspace change together.

Both functions may be cut short and called again. A pack is written before the manifest that names its samples, and the manifest is
cut before the packs are, so that at any moment a manifest names only what is there.
"""

from collections.abc import Iterable

import pandas as pd

from cdm_core.sharding.manifests import build_manifest, drop_samples, merge_manifests
from cdm_core.sharding.partition import OwnerKey
from tasks.data.manifest_store import load_manifest, save_manifest
from tasks.data.packs import Sample, add_to_pack, remove_from_pack
from tasks.workspace import Workspace


def add_samples(ws: Workspace, owner_key: OwnerKey, shard: int, stage: int, samples: Iterable[Sample]) -> int:
    """Append to the owner's pack and the shard's manifest; returns how many weren't there yet. A known picture keeps its caption."""
    manifest = load_manifest(ws, shard)
    known = set(manifest.loc[manifest["owner_key"] == owner_key, "sample_id"])
    new = [sample for sample in unique_samples(samples) if sample.sample_id not in known]
    if new:
        add_to_pack(ws.packs(shard) / pack_name(owner_key), new)
        added = build_manifest(manifest_rows(owner_key, shard, stage, new))
        save_manifest(ws, shard, merge_manifests([manifest, added]))
    return len(new)


def remove_samples(ws: Workspace, hits: pd.DataFrame) -> list[int]:
    """Take the samples of `hits` (manifest rows) out of manifests and packs; returns the shards touched. Rows already gone are fine."""
    shards = sorted(int(shard) for shard in hits["shard"].unique())
    for shard in shards:
        manifest = drop_samples(load_manifest(ws, shard), hits)
        save_manifest(ws, shard, manifest)
        for owner_key, rows in hits[hits["shard"] == shard].groupby("owner_key"):
            remove_from_pack(ws.packs(shard) / pack_name(OwnerKey(str(owner_key))), set(rows["sample_id"]))
        _sweep_packs(ws, shard, manifest)
    return shards


def unique_samples(samples: Iterable[Sample]) -> list[Sample]:
    """One owner's samples, each picture once: the first one's caption stands."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.sample_id, sample)
    return list(first.values())


def manifest_rows(owner_key: OwnerKey, shard: int, stage: int, samples: Iterable[Sample]) -> list[dict[str, object]]:
    """The manifest's rows for one owner's samples."""
    return [
        {
            "sample_id": sample.sample_id,
            "owner_key": owner_key,
            "shard": shard,
            "stage": stage,
            "pack": pack_name(owner_key),
            "member": f"{sample.sample_id}.png",
            "caption": sample.caption,
            "arrived_at": sample.arrived_at,
        }
        for sample in samples
    ]


def pack_name(owner_key: OwnerKey) -> str:
    """The file name of an owner's pack."""
    return f"{owner_key}.tar"


def _sweep_packs(ws: Workspace, shard: int, manifest: pd.DataFrame) -> None:
    # A crash may have left a half-written file that still holds what is to be removed.
    for path in ws.packs(shard).iterdir():
        if path.name not in set(manifest["pack"]):
            path.unlink()
