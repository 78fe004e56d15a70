"""Manifests: which sample belongs to whom, and to which shard and stage. One table a shard, one row a sample.

A manifest is the whole of what training reads besides the pixels, and the sample id covers those, so two equal manifests train the same
adapter. It is kept sorted, typed and without an index, and its Parquet form carries no library's own metadata: one frame has one byte
string, and what didn't change keeps its object in the data store.

A sample is identified by the pair (owner key, sample id), not by the sample id alone: two owners may have made the same picture, and the
withdrawal of one leaves the other's.
"""

import io
from collections.abc import Collection, Iterable, Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cdm_core.digests import Digest, json_digest
from cdm_core.errors import InvalidInputError

MANIFEST_COLUMNS = ("sample_id", "owner_key", "shard", "stage", "pack", "member", "caption", "arrived_at")

ROWS_PER_GROUP = 16_384

_SCHEMA = pa.schema(
    [
        pa.field(name, {"shard": pa.int64(), "stage": pa.int64(), "arrived_at": pa.timestamp("us", tz="UTC")}.get(name, pa.string()))
        for name in MANIFEST_COLUMNS
    ]
)
_DTYPES = {"shard": "int64", "stage": "int64", "arrived_at": "datetime64[us, UTC]"}
_SORT_ORDER = ["stage", "owner_key", "sample_id", "caption"]
_SAMPLE = ["owner_key", "sample_id"]


def build_manifest(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """The manifest of `rows` (dicts with the manifest's columns), typed and sorted by stage, owner, sample and caption."""
    return _in_order(pd.DataFrame(list(rows), columns=list(MANIFEST_COLUMNS)))


def merge_manifests(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One manifest of the rows of several."""
    return _in_order(pd.concat(list(frames)))


def encode_manifest(frame: pd.DataFrame) -> bytes:
    """The Parquet file of a manifest: the same bytes for the same frame (and the same pyarrow)."""
    return encode_table(pa.table({name: frame[name].tolist() for name in MANIFEST_COLUMNS}, schema=_SCHEMA))


def encode_table(table: pa.Table) -> bytes:
    """The Parquet file of a manifest that is an Arrow table already; in row groups small enough that reading one owner is cheap."""
    sink = io.BytesIO()
    pq.write_table(table.cast(_SCHEMA), sink, compression="zstd", row_group_size=ROWS_PER_GROUP)
    return sink.getvalue()


def decode_manifest(content: bytes, source: str) -> pd.DataFrame:
    """Parse a Parquet file and check it; `source` names it in errors.

    Raises:
        InvalidInputError: not Parquet, or a rule of `validate_manifest` is broken.
    """
    try:
        frame = pq.read_table(io.BytesIO(content)).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{source}: not a Parquet file: {str(error).splitlines()[0]}") from error
    return validate_manifest(frame, source)


def validate_manifest(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return `frame` if it keeps every rule of a manifest; `source` names it in errors.

    Raises:
        InvalidInputError: names the first rule that is broken, and where.
    """
    if tuple(frame.columns) != MANIFEST_COLUMNS:
        raise InvalidInputError(f"{source}: columns are {', '.join(map(str, frame.columns))}; must be {', '.join(MANIFEST_COLUMNS)}")
    for name in MANIFEST_COLUMNS:
        if str(frame[name].dtype) != _DTYPES.get(name, "str"):
            raise InvalidInputError(f"{source}: {name}: type is {frame[name].dtype}; must be {_DTYPES.get(name, 'str')}")
    owner_key, sample_id = frame["owner_key"], frame["sample_id"]
    # Equality with the names that the keys give also keeps every path-like name out.
    rules = {
        "sample_id: not 64 lower-case hexadecimal digits": sample_id.str.fullmatch(r"[0-9a-f]{64}"),
        "owner_key: not 16 lower-case hexadecimal digits": owner_key.str.fullmatch(r"[0-9a-f]{16}"),
        "shard: not between 0 and 999": frame["shard"].between(0, 999),
        "stage: not between 0 and 99": frame["stage"].between(0, 99),
        "pack: not <owner_key>.tar": frame["pack"] == owner_key + ".tar",
        "member: not <sample_id>.png": frame["member"] == sample_id + ".png",
        "caption: missing": frame["caption"].notna(),
        "arrived_at: missing": frame["arrived_at"].notna(),
        "sample_id: more than once with one owner": ~frame.duplicated(_SAMPLE),
    }
    for rule, holds in rules.items():
        broken = ~holds.fillna(False).astype(bool).to_numpy()
        if broken.any():
            raise InvalidInputError(f"{source}: row {broken.argmax()}: {rule}")
    if not _in_order(frame).equals(frame):
        raise InvalidInputError(f"{source}: rows are not sorted by {', '.join(_SORT_ORDER)}")
    return frame


def find_samples(
    manifests: Mapping[int, pd.DataFrame], *, owner_keys: Collection[str] = (), sample_ids: Collection[str] = ()
) -> pd.DataFrame:
    """Rows of all shards whose owner or whose sample is named, by shard, then in manifest order."""
    shards = [frame[frame["owner_key"].isin(owner_keys) | frame["sample_id"].isin(sample_ids)] for _, frame in sorted(manifests.items())]
    return pd.concat([build_manifest([]), *shards], ignore_index=True)


def drop_samples(frame: pd.DataFrame, hits: pd.DataFrame) -> pd.DataFrame:
    """The manifest without the samples of `hits`, matched by owner key and sample id; unknown hits are passed over."""
    if hits.empty:
        return frame.reset_index(drop=True)
    dropped = pd.MultiIndex.from_frame(frame[_SAMPLE]).isin(pd.MultiIndex.from_frame(hits[_SAMPLE]))
    return frame[~dropped].reset_index(drop=True)


def stage_samples(frame: pd.DataFrame, stage: int) -> pd.DataFrame:
    """The rows that `stage` trains on, in manifest order."""
    return frame[frame["stage"] == stage].reset_index(drop=True)


def samples_digest(frame: pd.DataFrame) -> Digest:
    """Digest of the sorted (sample id, caption, owner key) triples: all that training reads, since a sample id covers its pixels."""
    triples = zip(frame["sample_id"], frame["caption"], frame["owner_key"], strict=True)
    return json_digest(sorted([sample_id, caption, owner_key] for sample_id, caption, owner_key in triples))


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    typed = frame.astype({name: _DTYPES.get(name, "str") for name in MANIFEST_COLUMNS})
    return typed.sort_values(_SORT_ORDER, kind="stable", ignore_index=True)
