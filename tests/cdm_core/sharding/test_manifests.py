from datetime import UTC, datetime

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import InvalidInputError
from cdm_core.sharding.manifests import (
    MANIFEST_COLUMNS,
    build_manifest,
    decode_manifest,
    drop_samples,
    encode_manifest,
    find_samples,
    merge_manifests,
    samples_digest,
    stage_samples,
    validate_manifest,
)


def row(sample: int = 1, owner: int = 1, shard: int = 0, stage: int = 0, caption: str = "a cat") -> dict[str, object]:
    sample_id, owner_key = f"{sample:064x}", f"{owner:016x}"
    return {
        "sample_id": sample_id,
        "owner_key": owner_key,
        "shard": shard,
        "stage": stage,
        "pack": f"{owner_key}.tar",
        "member": f"{sample_id}.png",
        "caption": caption,
        "arrived_at": datetime(2020, 1, 2, tzinfo=UTC),
    }


ROWS = [row(3, 1, stage=1), row(1, 2), row(2, 1), row(1, 1, caption="ein Kätzchen 🐱")]


def test_rows_are_sorted_by_stage_owner_and_sample() -> None:
    frame = build_manifest(ROWS)
    assert tuple(frame.columns) == MANIFEST_COLUMNS
    assert [(int(s, 16), int(o, 16)) for s, o in zip(frame["sample_id"], frame["owner_key"], strict=True)] == [
        (1, 1),
        (2, 1),
        (1, 2),
        (3, 1),
    ]


@given(st.permutations(ROWS))
def test_the_order_of_arrival_changes_no_byte(rows: list[dict[str, object]]) -> None:
    assert encode_manifest(build_manifest(rows)) == encode_manifest(build_manifest(ROWS))


@pytest.mark.parametrize("rows", [[], ROWS])
def test_parquet_round_trip(rows: list[dict[str, object]]) -> None:
    frame = build_manifest(rows)
    content = encode_manifest(frame)
    again = decode_manifest(content, "m.parquet")
    pd.testing.assert_frame_equal(again, frame)
    assert encode_manifest(again) == content


@pytest.mark.parametrize("content", [b"", b"PAR1", b"sample_id,owner_key\n"])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^m.parquet: not a Parquet file: "):
        decode_manifest(content, "m.parquet")


def test_a_damaged_file_is_never_another_manifest() -> None:
    content = encode_manifest(build_manifest(ROWS))
    with pytest.raises(InvalidInputError, match=r"^m.parquet: not a Parquet file: "):
        decode_manifest(content[:-20] + content[-19:], "m.parquet")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"sample_id": "A" * 64}, "sample_id: not 64 lower-case"),
        ({"sample_id": None}, "sample_id: not 64 lower-case"),
        ({"owner_key": "owner"}, "owner_key: not 16 lower-case"),
        ({"shard": -1}, "shard: not between 0 and 999"),
        ({"shard": 1000}, "shard: not between 0 and 999"),
        ({"stage": 100}, "stage: not between 0 and 99"),
        ({"pack": f"../{1:016x}.tar"}, "pack: not <owner_key>.tar"),
        ({"member": f"/etc/{1:064x}.png"}, "member: not <sample_id>.png"),
        ({"caption": None}, "caption: missing"),
        ({"arrived_at": None}, "arrived_at: missing"),
    ],
)
def test_the_broken_rule_is_named(changes: dict[str, object], rule: str) -> None:
    frame = build_manifest([row(2, 2), row() | changes])
    at = 0 if changes.get("owner_key") is None and changes.get("stage") is None else 1
    with pytest.raises(InvalidInputError, match=f"^m.parquet: row {at}: {rule}"):
        validate_manifest(frame, "m.parquet")


def test_columns_and_types_and_order_are_checked() -> None:
    frame = build_manifest(ROWS)
    with pytest.raises(InvalidInputError, match=r"^m: columns are .*; must be sample_id, owner_key"):
        validate_manifest(frame.drop(columns="stage"), "m")
    with pytest.raises(InvalidInputError, match=r"^m: shard: type is float64; must be int64"):
        validate_manifest(frame.astype({"shard": float}), "m")
    with pytest.raises(InvalidInputError, match=r"^m: arrived_at: type is str; must be datetime64\[us, UTC\]"):
        validate_manifest(frame.astype({"arrived_at": str}), "m")
    with pytest.raises(InvalidInputError, match=r"^m: rows are not sorted by stage, owner_key, sample_id, caption"):
        validate_manifest(frame.iloc[::-1].reset_index(drop=True), "m")
    with pytest.raises(InvalidInputError, match=r"^m: row 1: sample_id: more than once with one owner"):
        validate_manifest(build_manifest([row(), row(caption="z")]), "m")


def test_samples_are_found_by_owner_or_id_over_all_shards() -> None:
    manifests = {1: build_manifest([row(1, 7, shard=1)]), 0: build_manifest(ROWS)}
    hits = find_samples(manifests, owner_keys={f"{2:016x}"}, sample_ids={f"{1:064x}"})
    assert hits[["shard", "owner_key"]].to_numpy().tolist() == [[0, f"{1:016x}"], [0, f"{2:016x}"], [1, f"{7:016x}"]]
    assert find_samples(manifests).empty
    assert tuple(find_samples({}).columns) == MANIFEST_COLUMNS


def test_dropping_takes_the_owners_own_copy_alone() -> None:
    frame = build_manifest(ROWS)
    left = drop_samples(frame, build_manifest([row(1, 1), row(9, 9)]))
    pd.testing.assert_frame_equal(left, build_manifest([r for r in ROWS if not r["caption"].startswith("ein")]))
    pd.testing.assert_frame_equal(drop_samples(left, build_manifest([row(1, 1)])), left)
    assert validate_manifest(drop_samples(frame, frame), "m").empty


def test_stages_and_merging() -> None:
    frame = build_manifest(ROWS)
    assert stage_samples(frame, 1)["sample_id"].tolist() == [f"{3:064x}"]
    assert stage_samples(frame, 5).empty
    pd.testing.assert_frame_equal(merge_manifests([stage_samples(frame, 1), stage_samples(frame, 0)]), frame)


def test_the_digest_covers_what_training_reads_and_nothing_else() -> None:
    frame = build_manifest(ROWS)
    digest = samples_digest(frame)
    assert samples_digest(frame.iloc[::-1]) == digest
    assert samples_digest(frame.assign(arrived_at=datetime(2021, 1, 1, tzinfo=UTC))) == digest
    for column in ("sample_id", "caption", "owner_key"):
        assert samples_digest(frame.assign(**{column: frame[column] + "0"})) != digest
    assert samples_digest(frame.iloc[1:]) != digest
