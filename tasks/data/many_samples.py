"""Manifests of any size, made of nothing: seeded, valid, and written as the product writes them, for measuring look-ups.

Owners hold 25 samples on average. Shard and stage are the product's function of the owner key.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdm_core.sharding.manifests import encode_table
from cdm_core.sharding.partition import OwnerKey, assign
from tasks.data.shipped import shipped_file
from tasks.files import write_atomically
from tasks.workspace import Workspace

_SAMPLES_AN_OWNER = 25
_CAPTIONS = 1000
_START = 1_577_836_800_000_000  # 2020-01-01, in microseconds
_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)


def make_manifests(folder: Path, *, rows: int, seed: int, progress: Callable[[str, int], None]) -> tuple[Workspace, list[str], list[str]]:
    """Write one manifest a shard with `rows` rows together; returns the workspace, 1,000 sample ids (or all) and as many owner keys.

    `progress` hears "rows made" and how many more.
    """
    ws = Workspace(folder.resolve())
    ws.root.mkdir(parents=True, exist_ok=True)
    write_atomically(ws.root / "params.yaml", shipped_file("params.yaml").read_bytes())
    partition, generator = ws.settings().partition, np.random.default_rng(seed)
    owners = _hexadecimal(generator.integers(0, 256, (max(1, rows // _SAMPLES_AN_OWNER), 8), dtype=np.uint8))
    keys = [owner.tobytes().decode() for owner in owners]
    places = np.array([assign(OwnerKey(key), None, partition) for key in keys], dtype=np.int64).reshape(-1, 2)
    owner_of = generator.integers(0, len(keys), rows)
    chosen_ids: list[str] = []
    chosen_owners: list[str] = []
    for shard in ws.settings().shard_ids:
        mine = owner_of[places[owner_of, 0] == shard]
        table, ids = _shard_table(shard, mine, owners, places, generator)
        write_atomically(ws.manifest(shard), encode_table(table))
        picked: np.ndarray | list[int] = (
            generator.choice(len(ids), min(len(ids), -(-1000 // partition.shards)), replace=False) if len(ids) else []
        )
        chosen_ids += [ids[row].tobytes().decode() for row in picked]
        chosen_owners += [table.column("owner_key")[int(row)].as_py() for row in picked]
        progress("rows made", len(ids))
    return ws, chosen_ids[:1000], chosen_owners[:1000]


def _shard_table(
    shard: int, owner_of: np.ndarray, owners: np.ndarray, places: np.ndarray, generator: np.random.Generator
) -> tuple[pa.Table, np.ndarray]:
    """The manifest of these owners' samples, and the sample ids as text [N, 64]."""
    digests = generator.integers(0, 256, (len(owner_of), 32), dtype=np.uint8)
    prefix = np.ascontiguousarray(digests[:, :8]).view(">u8").ravel()
    key = np.ascontiguousarray(owners).view("S16").ravel()[owner_of]
    order = np.lexsort((prefix, key, places[owner_of, 1]))
    ids, keys = _hexadecimal(digests[order]), owners[owner_of[order]]
    captions = pa.array([f"picture of thing {number}" for number in range(_CAPTIONS)])
    columns = {
        "sample_id": _texts(ids),
        "owner_key": _texts(keys),
        "shard": pa.array(np.full(len(order), shard)),
        "stage": pa.array(places[owner_of[order], 1]),
        "pack": _texts(keys, ".tar"),
        "member": _texts(ids, ".png"),
        "caption": captions.take(pa.array(generator.integers(0, _CAPTIONS, len(order)))),
        "arrived_at": pa.array(_START + generator.integers(0, 10**14, len(order))).cast(pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns), ids


def _hexadecimal(rows: np.ndarray) -> np.ndarray:
    return _DIGITS[np.stack([rows >> 4, rows & 15], axis=2).reshape(len(rows), -1)]


def _texts(rows: np.ndarray, suffix: str = "") -> pa.Array:
    """Rows of ASCII codes as a column of texts."""
    ending = np.broadcast_to(np.frombuffer(suffix.encode(), dtype=np.uint8), (len(rows), len(suffix)))
    content = np.concatenate([rows, ending], axis=1)
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * content.shape[1]
    return pa.Array.from_buffers(pa.string(), len(rows), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(content.tobytes())])
