"""The pictures of a deletion, from the data store, between their removal from today's revision and the purge.

They are read into memory from the objects that the revision before the deletion names, and written nowhere. Workers do it, so nothing here
imports DVC: planning made sure that its cache holds the objects, whose files are named by their ids.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from cdm_core.errors import StateError
from cdm_core.sharding.manifests import decode_manifest
from cdm_core.training import StageSamples
from tasks.data.data_history import parse_references
from tasks.data.git import run_git
from tasks.data.packs import decode_pictures, parse_pack
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedSample:
    """A sample that was removed from a shard."""

    sample_id: str
    owner_key: str
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was removed, and the last revision that has it; `key` names the request, `left` how many samples each hit shard keeps."""

    key: str
    revision: str
    samples: tuple[ErasedSample, ...]
    left: tuple[tuple[int, int], ...]

    @property
    def shards(self) -> list[int]:
        return [shard for shard, _ in self.left]


def load_erased(ws: Workspace, revision: str, samples: Sequence[ErasedSample]) -> StageSamples:
    """Pictures and captions of removed samples, in their order, as a revision that had them names them.

    Raises:
        StateError: git or the cache doesn't have them any more.
        VerificationError: a pack is damaged.
        InvalidInputError: a manifest is.
    """
    shards = sorted({sample.shard for sample in samples})
    rows = _find_rows(pd.concat([_read_manifest(ws, revision, shard) for shard in shards]), samples)
    objects = {shard: _read_folder(ws, revision, shard) for shard in shards}
    packs = {}
    for shard, pack in sorted(set(zip(rows["shard"], rows["pack"], strict=True))):
        path = ws.packs(shard) / pack
        if pack not in objects[shard]:
            raise StateError(f"{path}: revision {revision} has no such pack")
        packs[shard, pack] = parse_pack(_read_object(ws, objects[shard][pack]), str(path))
    pictures = decode_pictures(packs, rows, ws.packs)
    return StageSamples(sample_ids=rows["sample_id"].tolist(), captions=rows["caption"].tolist(), pictures=pictures)


def _read_manifest(ws: Workspace, revision: str, shard: int) -> pd.DataFrame:
    path = ws.manifest(shard).relative_to(ws.root).as_posix()
    return decode_manifest(_read_object(ws, _find_object(ws, revision, path)), path)


def _read_folder(ws: Workspace, revision: str, shard: int) -> dict[str, str]:
    """The object of each pack in a shard's folder."""
    entries = json.loads(_read_object(ws, _find_object(ws, revision, ws.packs(shard).relative_to(ws.root).as_posix())))
    return {str(entry["relpath"]): str(entry["md5"]) for entry in entries}


def _find_rows(manifests: pd.DataFrame, samples: Sequence[ErasedSample]) -> pd.DataFrame:
    """The samples' rows, in their order."""
    listed = pd.MultiIndex.from_frame(manifests[["shard", "owner_key", "sample_id"]])
    wanted = pd.MultiIndex.from_tuples([(sample.shard, sample.owner_key, sample.sample_id) for sample in samples])
    positions = listed.get_indexer(wanted)
    if (missing := positions < 0).any():
        shard = samples[int(missing.argmax())].shard
        raise StateError(f"shard {shard}: the manifest of the revision before doesn't list a sample of the plan")
    return manifests.iloc[positions].reset_index(drop=True)


def _find_object(ws: Workspace, revision: str, path: str) -> str:
    name = f"{path}.dvc"
    found = {reference.path: reference.object_id for reference in parse_references(name, run_git(ws.root, "show", f"{revision}:{name}"))}
    if path not in found:
        raise StateError(f"{ws.root / name}: revision {revision} names no {path}")
    return found[path]


def _read_object(ws: Workspace, object_id: str) -> bytes:
    path = ws.dvc_cache / "files" / "md5" / object_id[:2] / object_id[2:]
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != object_id.removesuffix(".dir"):
        raise StateError(f"data object {object_id}: not in the cache, or damaged")
    return content
