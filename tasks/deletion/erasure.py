"""Erasing objects from the data store for good. DVC has no purge: its garbage collection asks what to keep, and proves nothing.

What goes, for the shards that a deletion hit: every object that any revision ever named as the shard's packs, manifest or adapter, unless
today's revision names it too or the adapter is one that the plan found clean. So an old revision of a hit shard can't be checked out
any more, which is intended; untouched shards keep theirs. Objects in the cache that no revision names go as well: a run that was cut
short left them. A remote may be shared with other projects, so there only objects by name are touched.

An object is deleted before the directory object that lists it, so that a run that was cut short can be planned again. Then every store
is listed again, and the working tree searched for copies. DVC's notes of file states named what is gone, and start anew with what that
search has hashed: the next request would else wait for all data to be hashed before anything is stopped.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from dvc_data.hashfile.hash_info import HashInfo

from cdm_core.digests import Digest, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.sharding.manifests import drop_samples
from tasks.data.data_history import Reference, references_ever, references_now
from tasks.data.data_versions import is_committed, open_repo, site_cache
from tasks.data.manifest_store import load_manifest
from tasks.data.packs import read_pack
from tasks.files import PARTIAL_PATTERN
from tasks.workspace import Workspace

OnErased = Callable[[Mapping[str, int]], None]
"""Told how many objects have gone, by store."""

_OBJECT_ID = re.compile(r"\b[0-9a-f]{32}(?:\.dir)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStore:
    """The cache or a remote, through DVC's own file systems, so that a bucket works as a folder does."""

    name: str
    fs: Any
    path: str

    def objects(self) -> dict[str, str]:
        """Path by object id. A file that is no object, a broken upload say, stands under its relative path."""
        return {self._object_id(path): path for path in self._files() if not self._is_run(path)}

    def runs(self) -> dict[str, set[str]]:
        """The object ids that each entry of the run cache mentions, by the entry's path."""
        return {path: set(_OBJECT_ID.findall(self._read(path).decode())) for path in self._files() if self._is_run(path)}

    def find(self, object_id: str) -> bytes | None:
        """The content of an object, if the store has it."""
        path = self.fs.join(self.path, "files", "md5", object_id[:2], object_id[2:])
        return self._read(path) if self.fs.exists(path) else None

    def delete(self, path: str) -> None:
        self.fs.remove(path)

    def _read(self, path: str) -> bytes:
        with self.fs.open(path, "rb") as file:
            content: bytes = file.read()
        return content

    def _files(self) -> list[str]:
        return list(self.fs.find(self.path)) if self.fs.exists(self.path) else []

    def _parts(self, path: str) -> tuple[str, ...]:
        return tuple(self.fs.parts(self.fs.relpath(path, self.path)))

    def _is_run(self, path: str) -> bool:
        return self._parts(path)[0] == "runs"

    def _object_id(self, path: str) -> str:
        match self._parts(path):
            case ("files", "md5", prefix, rest):
                return prefix + rest
            case parts:
                return "/".join(parts)


def objects_to_erase(ws: Workspace, hits: pd.DataFrame, *, clean_adapters: Collection[Digest] = ()) -> set[str]:
    """Ids of the objects to erase once the samples of `hits` (manifest rows) are out of today's revision; see the module's text.

    Nothing else may change the workspace's data from here to the end of the erasure.

    Args:
        ws: the workspace, with its data and training committed.
        hits: what was withdrawn.
        clean_adapters: earlier adapters of the hit shards that never saw these samples, to be kept.

    Raises:
        StateError: today's revision still holds what is to be erased, or a directory object that it names is in no store.
    """
    shards = sorted(int(shard) for shard in hits["shard"].unique())
    paths = {str(path.relative_to(ws.root)) for shard in shards for path in (ws.packs(shard), ws.manifest(shard), ws.adapter(shard))}
    today, ever = references_now(ws), references_ever(ws)
    _check_hits_are_gone(ws, hits, shards)
    _check_one_version(ws, [reference for reference in today if reference.path in paths])
    tainted = {reference for reference in ever if reference.path in paths}
    with open_stores(ws) as stores:
        kept = _with_contents(today, stores, required=True) | _with_contents(ever - tainted, stores)
        for reference in tainted:
            # The history knows an adapter by its MD5, the caller by its SHA-256.
            content = _find(stores, reference.object_id)
            if content is not None and sha256_digest(content) in clean_adapters:
                kept.add(reference.object_id)
        in_cache = {object_id for store in stores if store.name == "dvc_cache" for object_id in store.objects()}
        return (_with_contents(tainted, stores) | in_cache) - kept


def ignore_counts(counts: Mapping[str, int]) -> None:
    """For a caller who keeps no count of what was erased before a crash."""


def erase_objects(ws: Workspace, object_ids: Collection[str], *, on_erased: OnErased = ignore_counts) -> dict[str, int]:
    """Delete the objects in the cache and every remote, and prove that they are gone; returns how many each store held.

    Run-cache entries that mention them, half-written files in the working tree and DVC's own notes of file states go with them. A
    second call finds nothing and returns zeros; `on_erased` is told how many a store held as soon as they are gone there.

    Raises:
        VerificationError: something is still there.
    """
    erased = set(object_ids)
    with open_stores(ws) as stores:
        counts = {store.name: 0 for store in stores}
        for store in stores:
            for path, mentioned in store.runs().items():
                if mentioned & erased:
                    store.delete(path)
        for directories in (False, True):
            for store in stores:
                num_erased = _delete(store, {object_id for object_id in erased if object_id.endswith(".dir") == directories})
                on_erased({store.name: num_erased})
                counts[store.name] += num_erased
    for file in _data_files(ws):
        if file.match(PARTIAL_PATTERN):
            file.unlink()
    shutil.rmtree(site_cache(ws), ignore_errors=True)
    verify_absence(ws, erased)
    return counts


def verify_absence(ws: Workspace, object_ids: Collection[str]) -> None:
    """List every store, its run cache and the working tree, and find none of the objects.

    Raises:
        VerificationError: an object, a run that mentions it or a copy of it is there.
    """
    erased = set(object_ids)
    with open_stores(ws) as stores:
        for store in stores:
            if left := erased & set(store.objects()):
                raise VerificationError(f"{store.path}: {len(left)} erased objects are still there, {min(left)} among them")
            if any(erased & mentioned for mentioned in store.runs().values()):
                raise VerificationError(f"{store.path}: the run cache still mentions an erased object")
    with open_repo(ws) as repo:
        states = [(str(path), repo.fs.info(str(path)), _compute_md5(path)) for path in _data_files(ws)]
        for name, _, object_id in states:
            if object_id in erased:
                raise VerificationError(f"{name}: a copy of an erased object")
        repo.state.save_many(((name, HashInfo("md5", object_id), info) for name, info, object_id in states), repo.fs)


@contextmanager
def open_stores(ws: Workspace) -> Iterator[list[DataStore]]:
    """The cache first, then every remote that the workspace knows."""
    with open_repo(ws) as repo:
        remotes = [repo.cloud.get_remote(name) for name in repo.config["remote"]]
        # The run cache lies beside the objects, hence the folder above both.
        cache = repo.cache.legacy
        yield [
            DataStore(name="dvc_cache", fs=cache.fs, path=cache.path),
            *(DataStore(name="dvc_remote", fs=remote.fs, path=remote.path) for remote in remotes),
        ]


def _delete(store: DataStore, object_ids: Collection[str]) -> int:
    """Delete those of the objects that a store holds; returns how many."""
    doomed = [path for object_id, path in store.objects().items() if object_id in object_ids]
    for path in doomed:
        store.delete(path)
    return len(doomed)


def _find(stores: list[DataStore], object_id: str) -> bytes | None:
    return next((content for store in stores if (content := store.find(object_id)) is not None), None)


def _with_contents(references: Iterable[Reference], stores: list[DataStore], *, required: bool = False) -> set[str]:
    """The objects named, and those that the directory objects among them list; a directory already erased lists nothing."""
    object_ids = {reference.object_id for reference in references}
    for directory in [object_id for object_id in object_ids if object_id.endswith(".dir")]:
        content = _find(stores, directory)
        if content is None and required:
            raise StateError(f"data object {directory}: named by today's revision, but neither in the DVC cache nor in a remote")
        object_ids |= {entry["md5"] for entry in json.loads(content or b"[]")}
    return object_ids


def _check_hits_are_gone(ws: Workspace, hits: pd.DataFrame, shards: list[int]) -> None:
    if not is_committed(ws, shards):
        raise StateError(f"{ws.root}: packs or manifests have changes that aren't committed; commit them before erasing")
    for shard in shards:
        manifest = load_manifest(ws, shard)
        if len(drop_samples(manifest, hits)) < len(manifest):
            raise StateError(f"{ws.manifest(shard)}: still lists samples that are to be erased")
        for pack, rows in hits[hits["shard"] == shard].groupby("pack"):
            path = ws.packs(shard) / str(pack)
            if path.exists() and set(rows["sample_id"]) & set(read_pack(path)):
                raise StateError(f"{path}: still holds samples that are to be erased")


def _check_one_version(ws: Workspace, references: list[Reference]) -> None:
    versions = {reference.path: reference.object_id for reference in references}
    for reference in references:
        if versions[reference.path] != reference.object_id:
            raise StateError(f"{ws.root / reference.path}: changed since its shard was trained; commit the training before erasing")


def _compute_md5(path: Path) -> str:
    """Of a file's bytes, read now, whatever DVC has noted of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _data_files(ws: Workspace) -> list[Path]:
    folders = (ws.packs(0).parent, ws.manifests, ws.adapter(0).parent)
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]
