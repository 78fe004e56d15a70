"""Look-up: which rows of the manifests an owner or a sample id has, without loading a manifest.

An owner is found by the manifests' own row-group statistics: only the row groups whose range of owner keys holds the key are read, and of
those only four columns. A sample id is found in an index beside them (`cdm_core.sharding.sample_index`), one file a shard under the
workspace's cache folder, made when it is missing or older than its manifest, and safe to delete. A stale index would miss a sample that is
to be erased, so it carries its manifest's file identity (device, inode, size, times of change to the nanosecond) and the digest of its
footer: manifests are replaced, never written in place, so another manifest is another file.

A shard of few rows has no index: reading its ids is as fast, and planning then writes nothing.

An index holds sample ids, so `erase_stale_indices` belongs to every erasure.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cdm_core.errors import InvalidInputError, StateError, VerificationError
from cdm_core.sharding.sample_index import SampleIndex, build_index, parse_hexadecimal
from tasks.files import write_atomically
from tasks.workspace import Workspace

INDEXED_ROWS = 100_000
"""A manifest of more rows than this is given an index."""

LOOKUP_COLUMNS = ("sample_id", "owner_key", "shard", "stage")
_ORDER = ["shard", "stage", "owner_key", "sample_id"]


def look_up(ws: Workspace, *, owner_keys: Collection[str] = (), sample_ids: Collection[str] = ()) -> pd.DataFrame:
    """What `find_samples` finds in all manifests, in its order, in the columns that say what and where.

    Raises:
        StateError: a manifest is missing.
        InvalidInputError: a manifest is damaged.
    """
    rows: set[tuple[int, int, str, str]] = set()
    for shard in ws.settings().shard_ids:
        if owner_keys:
            rows |= {(shard, stage, owner, sample) for sample, owner, stage in _find_owners(ws, shard, owner_keys)}
        if sample_ids:
            rows |= {(shard, stage, owner, sample) for sample, owner, stage in _find_samples(ws, shard, sample_ids)}
    frame = pd.DataFrame(sorted(rows), columns=_ORDER)[list(LOOKUP_COLUMNS)]
    return frame.astype({"sample_id": "str", "owner_key": "str", "shard": "int64", "stage": "int64"})


def count_by_stage(ws: Workspace, shard: int, num_stages: int) -> list[int]:
    """How many samples each stage of a shard has: one column is read."""
    stages = _read(ws.manifest(shard), ["stage"]).column("stage").to_numpy()
    return [int(count) for count in np.bincount(stages, minlength=num_stages)[:num_stages]]


def make_indices(ws: Workspace) -> int:
    """Make every index that is missing or stale; returns their bytes on disk."""
    for shard in ws.settings().shard_ids:
        if _open(ws.manifest(shard)).metadata.num_rows > INDEXED_ROWS:
            _open_index(ws, shard)
    return sum(path.stat().st_size for path in _folder(ws).glob("shard-*.arrow"))


def erase_stale_indices(ws: Workspace) -> int:
    """Delete every index that isn't of a present manifest; returns how many went.

    Raises:
        VerificationError: one is still there.
    """
    keep = {_index_path(ws, shard).name for shard in ws.settings().shard_ids if ws.manifest(shard).is_file()}
    doomed = [path for path in _folder(ws).glob("*") if path.name not in keep or _stale(ws, path)]
    for path in doomed:
        path.unlink(missing_ok=True)
    if any(path.exists() for path in doomed):
        raise VerificationError(f"{_folder(ws)}: an index is still there after its erasure")
    return len(doomed)


def _find_samples(ws: Workspace, shard: int, sample_ids: Collection[str]) -> list[tuple[str, str, int]]:
    path = ws.manifest(shard)
    if _open(path).metadata.num_rows > INDEXED_ROWS:
        return _open_index(ws, shard).find(sample_ids)
    table = _read(path, ["sample_id", "owner_key", "shard", "stage"])
    if not pc.all(pc.equal(table.column("shard"), shard), min_count=0).as_py():
        raise InvalidInputError(f"{path}: holds rows of another shard")
    table = table.filter(pc.is_in(table.column("sample_id"), value_set=pa.array(sorted(sample_ids), type=pa.string())))
    columns = (table.column(name).to_pylist() for name in ("sample_id", "owner_key", "stage"))
    return list(zip(*columns, strict=True))


def _find_owners(ws: Workspace, shard: int, owner_keys: Collection[str]) -> list[tuple[str, str, int]]:
    path = ws.manifest(shard)
    file, wanted = _open(path), pa.array(sorted(owner_keys), type=pa.string())
    groups = [group for group in range(file.num_row_groups) if _may_hold(file.metadata.row_group(group), owner_keys)]
    if not groups:
        return []
    try:
        mask = pc.is_in(file.read_row_groups(groups, columns=["owner_key"]).column("owner_key"), value_set=wanted)
        if not pc.any(mask).as_py():
            return []
        table = file.read_row_groups(groups, columns=["sample_id", "owner_key", "stage"]).filter(mask)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path}: not a readable manifest: {str(error).splitlines()[0]}") from error
    columns = (table.column(name).to_pylist() for name in ("sample_id", "owner_key", "stage"))
    return list(zip(*columns, strict=True))


def _may_hold(group: pq.RowGroupMetaData, owner_keys: Collection[str]) -> bool:
    number = group.num_columns
    column = next((group.column(index) for index in range(number) if group.column(index).path_in_schema == "owner_key"), None)
    statistics = None if column is None else column.statistics
    if statistics is None or not statistics.has_min_max:
        return True
    low, high = statistics.min, statistics.max
    return any(low <= key <= high for key in owner_keys)


def _open_index(ws: Workspace, shard: int) -> SampleIndex:
    path, stamp = _index_path(ws, shard), _stamp(ws.manifest(shard))
    if path.is_file():
        try:
            index = SampleIndex(pa.memory_map(str(path)))
            if index.stamp == stamp:
                return index
        except InvalidInputError:
            pass  # derived data: made anew
    write_atomically(path, _index_manifest(ws, shard, stamp), mode=0o600)
    if _stamp(ws.manifest(shard)) != stamp:
        raise StateError(f"{ws.manifest(shard)}: changed while it was being indexed; try again")
    return SampleIndex(pa.memory_map(str(path)))


def _index_manifest(ws: Workspace, shard: int, stamp: str) -> bytes:
    """Row group by row group, so that texts never lie in memory all together."""
    path = ws.manifest(shard)
    file = _open(path)
    ids, owners, stages = [np.empty((0, 32), np.uint8)], [np.empty((0, 8), np.uint8)], [np.empty(0, np.uint8)]
    try:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["sample_id", "owner_key", "shard", "stage"])
            ids.append(parse_hexadecimal(table.column("sample_id"), 32, f"{path}: sample_id"))
            owners.append(parse_hexadecimal(table.column("owner_key"), 8, f"{path}: owner_key"))
            stages.append(table.column("stage").to_numpy().astype(np.uint8))
            if not pc.all(pc.equal(table.column("shard"), shard), min_count=0).as_py():
                raise InvalidInputError(f"{path}: holds rows of another shard")
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InvalidInputError(f"{path}: not a readable manifest: {str(error).splitlines()[0]}") from error
    return build_index(np.concatenate(ids), np.concatenate(owners), np.concatenate(stages), stamp=stamp)


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise StateError(f"{path}: no such manifest; get it with: dvc pull")
    try:
        return pq.ParquetFile(str(path), memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error


def _read(path: Path, columns: list[str]) -> pa.Table:
    file = _open(path)
    try:
        return file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path}: not a readable manifest: {str(error).splitlines()[0]}") from error


def _stamp(path: Path) -> str:
    """Names one state of one file; nothing but writing a file anew gives the same time of change, inode, size and footer."""
    if not path.is_file():
        raise StateError(f"{path}: no such manifest; get it with: dvc pull")
    state = path.stat()
    with path.open("rb") as file:
        file.seek(max(0, state.st_size - 8))
        tail = file.read(8)
        length = min(int.from_bytes(tail[:4], "little") + 8, state.st_size)
        file.seek(state.st_size - length)
        footer = hashlib.sha256(file.read(length)).hexdigest()
    return f"1:{state.st_dev}:{state.st_ino}:{state.st_size}:{state.st_mtime_ns}:{state.st_ctime_ns}:{footer}"


def _stale(ws: Workspace, path: Path) -> bool:
    shard = int(path.stem.removeprefix("shard-"))
    try:
        stamp: str = SampleIndex(pa.memory_map(str(path))).stamp
    except InvalidInputError:
        return True
    return stamp != _stamp(ws.manifest(shard))


def _folder(ws: Workspace) -> Path:
    return ws.cache / "lookup"


def _index_path(ws: Workspace, shard: int) -> Path:
    return _folder(ws) / f"shard-{shard}.arrow"
