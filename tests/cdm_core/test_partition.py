from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import InvalidInputError
from cdm_core.partition import OwnerKey, Partition, assign, compute_owner_key

OWNER_KEYS = st.text("0123456789abcdef", min_size=16, max_size=16).map(OwnerKey)
PARTITION = Partition(shards=8, stages=4)


@given(OWNER_KEYS, st.integers(1, 1000), st.integers(1, 100))
def test_every_owner_has_one_place_within_bounds(owner_key: OwnerKey, shards: int, stages: int) -> None:
    partition = Partition(shards=shards, stages=stages)
    shard, stage = assign(owner_key, None, partition)
    assert 0 <= shard < shards
    assert 0 <= stage < stages
    assert assign(owner_key, None, partition) == (shard, stage)


@given(OWNER_KEYS, st.integers(0, 3))
def test_a_declared_tier_is_the_stage_and_leaves_the_shard(owner_key: OwnerKey, tier: int) -> None:
    assert assign(owner_key, tier, PARTITION) == (assign(owner_key, None, PARTITION)[0], tier)


def test_owners_spread_over_all_places() -> None:
    places = Counter(assign(compute_owner_key(b"secret", f"owner {number}"), None, PARTITION) for number in range(3200))
    assert len(places) == 32
    # 100 a place on average; the standard deviation is 9.8.
    assert 55 < min(places.values()) <= max(places.values()) < 150


def test_an_owner_key_needs_the_secret() -> None:
    key = compute_owner_key(b"secret", "Anna")
    assert key == compute_owner_key(b"secret", "Anna")
    assert len(key) == 16
    assert key not in {compute_owner_key(b"other", "Anna"), compute_owner_key(b"secret", "Ben")}


@pytest.mark.parametrize("tier", [-1, 4])
def test_a_tier_that_is_no_stage_is_refused(tier: int) -> None:
    with pytest.raises(InvalidInputError, match=f"^tier {tier} is not between 0 and 3$"):
        assign(OwnerKey("0" * 16), tier, PARTITION)


@pytest.mark.parametrize(
    ("shards", "stages", "message"),
    [
        (0, 4, "shards: 0 is not between 1 and 1000"),
        (1001, 4, "shards: 1001 is not between 1 and 1000"),
        (8, 0, "stages: 0 is not between 1 and 100"),
        (8, 101, "stages: 101 is not between 1 and 100"),
    ],
)
def test_a_partition_out_of_bounds_is_refused(shards: int, stages: int, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Partition(shards=shards, stages=stages)
