"""The pictures of a deletion, from the data store, between their removal from today's revision and the purge.

They are read into memory from the objects that the revision before the deletion names, and written nowhere.
"""

import hashlib
import json
from collections.abc import Sequence

import pandas as pd

from cdm_core.errors import StateError
from cdm_core.manifests import decode_manifest
from cdm_core.training import StageSamples
from tasks.data_history import parse_references
from tasks.erasure import DataStore, open_stores
from tasks.git import run_git
from tasks.packs import decode_pictures, parse_pack
from tasks.planning import Hit
from tasks.workspace import Workspace


def load_erased(ws: Workspace, revision: str, hits: Sequence[Hit]) -> StageSamples:
    """Pictures and captions of removed samples, in the order of `hits`, as a revision that had them names them.

    Raises:
        StateError: git or the stores don't have them any more.
        VerificationError: a pack is damaged.
        InvalidInputError: a manifest is.
    """
    shards = sorted({hit.shard for hit in hits})
    with open_stores(ws) as stores:
        manifests = {shard: _read_manifest(ws, stores, revision, shard) for shard in shards}
        rows = pd.DataFrame([_find_row(manifests[hit.shard], hit) for hit in hits]).reset_index(drop=True)
        objects = {shard: _read_folder(ws, stores, revision, shard) for shard in shards}
        packs = {}
        for shard, pack in sorted(set(zip(rows["shard"], rows["pack"], strict=True))):
            path = ws.packs(shard) / pack
            if pack not in objects[shard]:
                raise StateError(f"{path}: revision {revision} has no such pack")
            packs[shard, pack] = parse_pack(_read_object(stores, objects[shard][pack]), str(path))
    pictures = decode_pictures(packs, rows, ws.packs)
    return StageSamples(sample_ids=rows["sample_id"].tolist(), captions=rows["caption"].tolist(), pictures=pictures)


def _read_manifest(ws: Workspace, stores: Sequence[DataStore], revision: str, shard: int) -> pd.DataFrame:
    path = ws.manifest(shard).relative_to(ws.root).as_posix()
    return decode_manifest(_read_object(stores, _find_object(ws, revision, path)), path)


def _read_folder(ws: Workspace, stores: Sequence[DataStore], revision: str, shard: int) -> dict[str, str]:
    """The object of each pack in a shard's folder."""
    entries = json.loads(_read_object(stores, _find_object(ws, revision, ws.packs(shard).relative_to(ws.root).as_posix())))
    return {str(entry["relpath"]): str(entry["md5"]) for entry in entries}


def _find_row(manifest: pd.DataFrame, hit: Hit) -> pd.Series:
    found = manifest[(manifest["sample_id"] == hit.sample_id) & (manifest["owner_key"] == hit.owner_key)]
    if found.empty:
        raise StateError(f"shard {hit.shard}: the manifest of the revision before doesn't list a sample of the plan")
    return found.iloc[0]


def _find_object(ws: Workspace, revision: str, path: str) -> str:
    name = f"{path}.dvc"
    found = {reference.path: reference.object_id for reference in parse_references(name, run_git(ws.root, "show", f"{revision}:{name}"))}
    if path not in found:
        raise StateError(f"{ws.root / name}: revision {revision} names no {path}")
    return found[path]


def _read_object(stores: Sequence[DataStore], object_id: str) -> bytes:
    for content in (store.find(object_id) for store in stores):
        if content is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() == object_id.removesuffix(".dir"):
            return content
    raise StateError(f"data object {object_id}: in none of the stores, or damaged")
