from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdm_core.errors import InvalidInputError
from cdm_core.sharding.partition import OwnerKey, Partition, assign, compute_owner_key
from cdm_core.sharding.tiers import Tier

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


COLD, HOT = Tier(name="cold", rate=0.01, share=3), Tier(name="hot", rate=1, share=1)


@given(OWNER_KEYS, st.integers(1, 1000), st.integers(1, 100))
def test_tiers_move_no_owner_to_another_shard_and_stay_within_bounds(owner_key: OwnerKey, shards: int, stages: int) -> None:
    partition = Partition(shards=shards, stages=stages, tiers=(HOT, COLD))
    for tier in (None, "cold", "hot", 0):
        shard, stage = assign(owner_key, tier, partition)
        assert shard == assign(owner_key, None, Partition(shards=shards, stages=stages))[0]
        assert 0 <= stage < stages
        assert assign(owner_key, tier, partition) == (shard, stage)
    assert assign(owner_key, None, partition) in {assign(owner_key, "cold", partition), assign(owner_key, "hot", partition)}
    assert assign(owner_key, "cold", partition)[1] <= assign(owner_key, "hot", partition)[1]


def test_an_unknown_tier_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidInputError, match=r"^tier: must be one of cold, hot, or a stage's number from 0 to 3$"):
        assign(OwnerKey("0" * 16), "johanna", Partition(shards=8, stages=4, tiers=(HOT, COLD)))
    with pytest.raises(InvalidInputError, match=r"^tier: must be a stage's number from 0 to 3$"):
        assign(OwnerKey("0" * 16), "cold", PARTITION)


@pytest.mark.parametrize(
    ("tiers", "message"), [((COLD, COLD), "a name is there twice"), ((replace(COLD, share=0),), "no share is above 0")]
)
def test_tiers_that_contradict_are_refused(tiers: tuple[Tier, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^tiers: {message}$"):
        Partition(shards=8, stages=4, tiers=tiers)
