"""Which shard and stage an owner's data goes to: a pure function of the owner's key and declared tier (`cdm_core.sharding.tiers`).

Nothing about other owners enters (no balancing, no clustering), or removing one owner would move another's data and a checkpoint
"before" the removed owner would not be what training from scratch makes. The price is shards of unequal size.

The owner key is a keyed hash of the owner's id, so it tells nothing about the id, and the hash needs no table: with the workspace's
secret an id gives its key, and without the id the key gives nothing back.
"""

from dataclasses import dataclass
from typing import NewType

from cdm_core.digests import derive_seed, keyed_hash
from cdm_core.errors import InvalidInputError
from cdm_core.sharding.tiers import Tier, draw_tier, place_in_tier

OwnerKey = NewType("OwnerKey", str)
"""First 16 hexadecimal digits of the keyed hash of an owner's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """How many shards there are, how many stages each is trained through, and the tiers that owners may be in."""

    shards: int
    stages: int
    tiers: tuple[Tier, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= 1000:
            raise InvalidInputError(f"shards: {self.shards} is not between 1 and 1000")
        if not 1 <= self.stages <= 100:
            raise InvalidInputError(f"stages: {self.stages} is not between 1 and 100")
        if len({tier.name for tier in self.tiers}) < len(self.tiers):
            raise InvalidInputError("tiers: a name is there twice")
        if self.tiers and sum(tier.share for tier in self.tiers) <= 0:
            raise InvalidInputError("tiers: no share is above 0")


def compute_owner_key(secret: bytes, owner_id: str) -> OwnerKey:
    """The pseudonym under which an owner appears everywhere."""
    return OwnerKey(keyed_hash(secret, "owner", owner_id)[:16])


def assign(owner_key: OwnerKey, tier: str | int | None, partition: Partition) -> tuple[int, int]:
    """(shard, stage), both from 0. `tier` is a tier's name or a stage's number (0 is the coldest and trains first).

    An undeclared tier is drawn from the key; where the partition has no tiers, the stage is.

    Raises:
        InvalidInputError: `tier` is neither a tier's name nor a stage's number.
    """
    shard = derive_seed("shard", owner_key) % partition.shards
    if tier is None and not partition.tiers:
        return shard, derive_seed("stage", owner_key) % partition.stages
    if tier is None:
        tier = draw_tier(owner_key, partition.tiers).name
    if isinstance(tier, str):
        return shard, place_in_tier(owner_key, tier, partition.tiers, partition.stages)
    if not 0 <= tier < partition.stages:
        raise InvalidInputError(f"tier {tier} is not between 0 and {partition.stages - 1}")
    return shard, tier
