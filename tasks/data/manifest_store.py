"""The manifests of a workspace on disk: one Parquet file a shard.

A flow asks for the same manifests at most of its steps, so what the last files said is kept; a file is read each time, and parsed and
checked again if its bytes are others.
"""

from collections.abc import Mapping
from functools import lru_cache

import pandas as pd

from cdm_core.errors import InvalidInputError, StateError
from cdm_core.sharding.manifests import decode_manifest, encode_manifest, validate_manifest
from tasks.files import write_atomically
from tasks.workspace import Workspace


def load_manifests(ws: Workspace) -> dict[int, pd.DataFrame]:
    """Every shard's manifest, checked.

    Raises:
        StateError: a shard's manifest is missing.
        InvalidInputError: a manifest breaks a rule.
    """
    return {shard: load_manifest(ws, shard) for shard in ws.settings().shard_ids}


def load_manifest(ws: Workspace, shard: int) -> pd.DataFrame:
    """One shard's manifest, checked.

    Raises:
        StateError: it is missing.
        InvalidInputError: it breaks a rule.
    """
    path = ws.manifest(shard)
    if not path.is_file():
        raise StateError(f"{path}: no such manifest; get it with: dvc pull")
    return _decode(path.read_bytes(), str(path), shard).copy(deep=False)  # pandas copies what a caller changes


def save_manifest(ws: Workspace, shard: int, frame: pd.DataFrame) -> None:
    """Replace one shard's manifest.

    Raises:
        InvalidInputError: `frame` breaks a rule.
    """
    path = ws.manifest(shard)
    write_atomically(path, encode_manifest(validate_manifest(frame, str(path))))


def count_samples(manifests: Mapping[int, pd.DataFrame]) -> int:
    """Samples of all shards."""
    return sum(len(frame) for frame in manifests.values())


def count_owners(manifests: Mapping[int, pd.DataFrame]) -> int:
    """Owners of all shards; an owner's samples all lie in one."""
    return sum(frame["owner_key"].nunique() for frame in manifests.values())


@lru_cache(maxsize=64)
def _decode(content: bytes, source: str, shard: int) -> pd.DataFrame:
    frame = decode_manifest(content, source)
    if not (frame["shard"] == shard).all():
        raise InvalidInputError(f"{source}: holds rows of another shard")
    return frame
