"""Tiers: how likely an owner's withdrawal is, and which stages an owner of a tier trains in.

A deletion retrains the first stage that it hits and all later ones, so the stages are ordered by how often they are hit: the tier with
the lowest yearly deletion rate trains first. Both rules below look at the tiers of `params.yaml` and at one owner's key, never at other
owners, as `cdm_core.sharding.partition` demands.

Tiers to stages: tier i of T, the coldest first, takes the stages from ⌊i·S/T⌋ up to ⌊(i+1)·S/T⌋, and one at least. With as many stages as
tiers each has its own; with fewer, neighbouring tiers share one; with more, a tier has several, and the owner's key says which.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdm_core.digests import derive_seed, derive_uniform
from cdm_core.errors import InvalidInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """`rate`: deletions a year per owner; `share`: the weight with which owners who declare no tier are drawn into this one."""

    name: str
    rate: float
    share: float

    def __post_init__(self) -> None:
        if not is_tier_name(self.name):
            raise InvalidInputError("tiers: a name has up to 32 of a-z, 0-9, - and _, and begins with a letter")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InvalidInputError(f"tiers.{self.name}.rate: {self.rate} is not above 0")
        if not (math.isfinite(self.share) and self.share >= 0):
            raise InvalidInputError(f"tiers.{self.name}.share: {self.share} is not 0 or above")


def is_tier_name(text: str) -> bool:
    """A tier's name never reads as a stage's number, so that one option can take either."""
    return re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", text) is not None


def order_tiers(tiers: Sequence[Tier]) -> tuple[Tier, ...]:
    """The coldest first; equal rates by name."""
    return tuple(sorted(tiers, key=lambda tier: (tier.rate, tier.name)))


def tier_stages(index: int, num_tiers: int, num_stages: int) -> range:
    """The stages of the tier that is number `index` by ascending rate."""
    first = index * num_stages // num_tiers
    return range(first, max(first + 1, (index + 1) * num_stages // num_tiers))


def stage_tiers(tiers: Sequence[Tier], stage: int, num_stages: int) -> tuple[Tier, ...]:
    """The tiers whose owners may train in `stage`, the coldest first."""
    ordered = order_tiers(tiers)
    return tuple(tier for index, tier in enumerate(ordered) if stage in tier_stages(index, len(ordered), num_stages))


def stage_rate(tiers: Sequence[Tier], stage: int, num_stages: int) -> float:
    """Expected deletions a year per owner of a stage; 1 without tiers, where no owner is likelier to withdraw than another.

    Where tiers share a stage it is their mean, weighted by share.
    """
    if not tiers:
        return 1.0
    merged = stage_tiers(tiers, stage, num_stages)
    total = sum(tier.share for tier in merged)
    if total == 0:
        return sum(tier.rate for tier in merged) / len(merged)
    return sum(tier.share * tier.rate for tier in merged) / total


def draw_tier(owner_key: str, tiers: Sequence[Tier]) -> Tier:
    """The tier of an owner who declared none: drawn by the key, in proportion to the shares."""
    ordered = order_tiers(tiers)
    mark = derive_uniform("tier", owner_key) * sum(tier.share for tier in ordered)
    for tier in ordered:
        mark -= tier.share
        if mark < 0:
            return tier
    return next(tier for tier in reversed(ordered) if tier.share > 0)  # rounding left a hair


def place_in_tier(owner_key: str, name: str, tiers: Sequence[Tier], num_stages: int) -> int:
    """The stage of an owner of the tier `name`.

    Raises:
        InvalidInputError: there is no such tier.
    """
    names = [tier.name for tier in order_tiers(tiers)]
    if name not in names:
        known = f"one of {', '.join(names)}, or " if names else ""
        raise InvalidInputError(f"tier: must be {known}a stage's number from 0 to {num_stages - 1}")
    stages = tier_stages(names.index(name), len(names), num_stages)
    return stages[derive_seed("stage", owner_key) % len(stages)]


def resample_epochs(epochs: Sequence[int], tiers: Sequence[Tier], num_stages: int) -> list[int]:
    """Epochs a stage for another number of stages: a stage has the epochs of its tiers' stages, or their mean weighted by share.

    Args:
        epochs: one number a tier, the coldest first.
        tiers: whose shares weigh where tiers share a stage.
        num_stages: the number of stages wanted.
    """
    ordered, resampled = order_tiers(tiers), []
    for stage in range(num_stages):
        merged = [index for index in range(len(ordered)) if stage in tier_stages(index, len(ordered), num_stages)]
        weights = [ordered[index].share for index in merged]
        weights = weights if sum(weights) > 0 else [1.0] * len(merged)
        mean = sum(weight * epochs[index] for weight, index in zip(weights, merged, strict=True)) / sum(weights)
        resampled.append(max(1, round(mean)))
    return resampled
