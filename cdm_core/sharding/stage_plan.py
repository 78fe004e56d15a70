"""What a deletion costs under a plan of stages: expected training steps, worked out and not sampled.

A deletion that falls in stage r of a shard retrains r and all later stages. With n_r the steps of stage r and Q_r the probability that
one deletion falls in this shard at a stage ≤ r, one deletion costs Σ n_r Q_r steps over stages and shards, and a batch of K that are
carried out together Σ n_r (1 − (1 − Q_r)^K). The steps are those before the deletion, so that the cost is an upper bound: what is
deleted isn't trained on again.

`build_alternatives` puts the plan that a workspace has beside others for the same owners. Each spends on a shard the steps that the
workspace's own plan spends on it, so that only the order and the split over the stages differ:

- one stage: the whole shard is retrained, as the paper does.
- SISA order (Bourtoule et al. 2021): owners in stages by hash, each stage trains on all data up to it, the same epochs in each.
- cold first: the stages by ascending deletion rate, the same epochs in each.
- cold first, front-loaded: half of the steps in the first stage that has samples.
- chosen: the workspace's own stages and epochs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from cdm_core.digests import derive_seed
from cdm_core.settings import Settings
from cdm_core.sharding.partition import OwnerKey
from cdm_core.sharding.tiers import stage_rate
from cdm_core.training import num_steps

FIRST_STAGE_SHARE = 0.5
"""Of the front-loaded alternative's steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """A stage's training steps, and the probability that one deletion falls in it."""

    steps: float
    hit: float

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 <= self.hit <= 1:
            raise ValueError("steps must not be negative, and hit lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSamples:
    """How many samples an owner has in each stage of the owner's shard; one in some stage at least."""

    owner_key: OwnerKey
    shard: int
    samples: tuple[int, ...]

    def __post_init__(self) -> None:
        if not any(self.samples):
            raise ValueError("an owner has one sample at least")

    @property
    def stage(self) -> int:
        """The first stage that the owner's deletion hits."""
        return next(stage for stage, number in enumerate(self.samples) if number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan: for each shard the cost of its stages, in training order."""

    name: str
    shards: tuple[tuple[StageCost, ...], ...]

    @property
    def steps(self) -> float:
        """Of a whole build."""
        return sum(stage.steps for shard in self.shards for stage in shard)

    def expected_steps(self, batch: int = 1) -> float:
        """Of a batch of deletions that are carried out together."""
        return sum(expected_shard_steps(shard, batch) for shard in self.shards)


def expected_shard_steps(stages: Sequence[StageCost], batch: int = 1) -> float:
    """Expected steps in one shard for `batch` deletions together, each of which may also fall in another shard.

    Raises:
        ValueError: `batch` is below 1.
    """
    if batch < 1:
        raise ValueError("batch must be 1 or more")
    hit_up_to = accumulate(stage.hit for stage in stages)
    return sum(stage.steps * (1 - (1 - min(hit, 1.0)) ** batch) for stage, hit in zip(stages, hit_up_to, strict=True))


def split_equally(total: float, samples: Sequence[float]) -> list[float]:
    """The same epochs in every stage: steps in proportion to the stages' samples."""
    return [total * number / (sum(samples) or 1) for number in samples]


def split_cumulatively(total: float, samples: Sequence[float]) -> list[float]:
    """SISA's stages: the same epochs in every stage, each over its own samples and all those before."""
    return split_equally(total, list(accumulate(samples)))


def split_front_loaded(total: float, samples: Sequence[float]) -> list[float]:
    """`FIRST_STAGE_SHARE` in the first stage that has samples, the rest in proportion to the later stages' samples."""
    first = next((stage for stage, number in enumerate(samples) if number), 0)
    later = [number if stage > first else 0.0 for stage, number in enumerate(samples)]
    if not any(later):
        return split_equally(total, samples)
    steps = split_equally(total * (1 - FIRST_STAGE_SHARE), later)
    steps[first] = total * FIRST_STAGE_SHARE
    return steps


def hit_probabilities(owners: Sequence[OwnerSamples], settings: Settings) -> list[float]:
    """For each owner the probability that a deletion is theirs: in proportion to the rate of the stage that they are in."""
    tiers = settings.partition.tiers
    rates = [stage_rate(tiers, stage, settings.stages) for stage in range(settings.stages)]
    total = sum(rates[owner.stage] for owner in owners)
    return [rates[owner.stage] / total for owner in owners]


def build_alternatives(owners: Sequence[OwnerSamples], settings: Settings) -> list[Alternative]:
    """The plans to compare, the workspace's own as the last."""
    num_stages, hits = settings.stages, hit_probabilities(owners, settings)
    by_tier = _Layout(num_shards=len(settings.shard_ids), num_stages=num_stages)
    by_hash = _Layout(num_shards=len(settings.shard_ids), num_stages=num_stages)
    for owner, hit in zip(owners, hits, strict=True):
        by_tier.add(owner.shard, owner.stage, hit, owner.samples)
        stage = derive_seed("stage", owner.owner_key) % num_stages
        by_hash.add(owner.shard, stage, hit, [sum(owner.samples) if number == stage else 0 for number in range(num_stages)])
    own_steps = [
        [float(num_steps(int(number), settings.training, stage)) for stage, number in enumerate(shard)] for shard in by_tier.samples
    ]
    totals = [sum(steps) for steps in own_steps]
    one_stage = tuple((StageCost(steps=total, hit=min(sum(hit), 1.0)),) for total, hit in zip(totals, by_tier.hits, strict=True))
    return [
        Alternative(name="one stage", shards=one_stage),
        by_hash.alternative("SISA order", totals, split_cumulatively),
        by_tier.alternative("cold first", totals, split_equally),
        by_tier.alternative("cold first, front-loaded", totals, split_front_loaded),
        Alternative(name="chosen", shards=by_tier.costs(own_steps)),
    ]


class _Layout:
    """Samples, and the probability of a deletion, by shard and stage."""

    def __init__(self, *, num_shards: int, num_stages: int) -> None:
        self.samples = [[0.0] * num_stages for _ in range(num_shards)]
        self.hits = [[0.0] * num_stages for _ in range(num_shards)]

    def add(self, shard: int, stage: int, hit: float, samples: Sequence[int]) -> None:
        self.hits[shard][stage] += hit
        self.samples[shard] = [before + number for before, number in zip(self.samples[shard], samples, strict=True)]

    def alternative(self, name: str, totals: Sequence[float], split: Callable[[float, Sequence[float]], list[float]]) -> Alternative:
        steps = [split(total, samples) for total, samples in zip(totals, self.samples, strict=True)]
        return Alternative(name=name, shards=self.costs(steps))

    def costs(self, steps: Sequence[Sequence[float]]) -> tuple[tuple[StageCost, ...], ...]:
        pairs = zip(steps, self.hits, strict=True)
        return tuple(
            tuple(StageCost(steps=number, hit=min(hit, 1.0)) for number, hit in zip(shard, hits, strict=True)) for shard, hits in pairs
        )
