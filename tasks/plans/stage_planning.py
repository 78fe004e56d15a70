"""The stage plan of a workspace, worked out from its manifests: what its own and other plans would cost a deletion."""

from dataclasses import dataclass

import pandas as pd

from cdm_core.errors import StateError
from cdm_core.settings import Settings
from cdm_core.sharding.partition import OwnerKey
from cdm_core.sharding.stage_plan import Alternative, OwnerSamples, build_alternatives
from cdm_core.sharding.tiers import stage_rate, stage_tiers
from tasks.data.manifest_store import load_manifests
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class AlternativeCost:
    """`expected_steps` of a batch, which is also told per deletion and as a share of one shard's and of the whole model's training."""

    name: str
    stages: int
    expected_steps: float
    expected_steps_per_deletion: float
    share_of_shard: float
    share_of_monolith: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenStage:
    """One stage of the workspace's own plan, over all shards; `deletions_share` is how likely a deletion hits it first."""

    stage: int
    tiers: tuple[str, ...]
    yearly_rate: float
    owners: int
    samples: int
    epochs: int
    steps: int
    deletions_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """A workspace's stages and what a batch of deletions is expected to cost, under them and under others."""

    batch: int
    owners: int
    samples: int
    shards: int
    steps_shard: float
    steps_monolith: int
    alternatives: tuple[AlternativeCost, ...]
    stages: tuple[ChosenStage, ...]


def build_stage_plan(ws: Workspace, batch: int) -> StagePlan:
    """Compare plans for the owners whom the manifests list; a monolith trains for the steps of all shards together.

    Raises:
        StateError: there is no sample to plan for.
    """
    settings = ws.settings()
    owners = _read_owners(ws, settings)
    if not owners:
        raise StateError(f"{ws.root}: there is no sample to plan for")
    alternatives = build_alternatives(owners, settings)
    num_shards, chosen = len(settings.shard_ids), alternatives[-1]
    return StagePlan(
        batch=batch,
        owners=len(owners),
        samples=sum(sum(owner.samples) for owner in owners),
        shards=num_shards,
        steps_shard=chosen.steps / num_shards,
        steps_monolith=round(chosen.steps),
        alternatives=tuple(_cost(alternative, batch, num_shards) for alternative in alternatives),
        stages=tuple(_describe_stage(stage, owners, chosen, settings) for stage in range(settings.stages)),
    )


def _read_owners(ws: Workspace, settings: Settings) -> list[OwnerSamples]:
    frame = pd.concat([manifest[["owner_key", "shard", "stage"]] for manifest in load_manifests(ws).values()])
    counts = frame.groupby(["owner_key", "shard"])["stage"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=range(settings.stages), fill_value=0)
    return [
        OwnerSamples(owner_key=OwnerKey(str(owner_key)), shard=int(shard), samples=tuple(int(number) for number in row))
        for (owner_key, shard), row in zip(counts.index.to_list(), counts.to_numpy(), strict=True)
    ]


def _cost(alternative: Alternative, batch: int, num_shards: int) -> AlternativeCost:
    steps = alternative.expected_steps(batch)
    return AlternativeCost(
        name=alternative.name,
        stages=len(alternative.shards[0]),
        expected_steps=steps,
        expected_steps_per_deletion=steps / batch,
        share_of_shard=steps * num_shards / alternative.steps,
        share_of_monolith=steps / alternative.steps,
    )


def _describe_stage(stage: int, owners: list[OwnerSamples], chosen: Alternative, settings: Settings) -> ChosenStage:
    tiers = settings.partition.tiers
    return ChosenStage(
        stage=stage,
        tiers=tuple(tier.name for tier in stage_tiers(tiers, stage, settings.stages)),
        yearly_rate=stage_rate(tiers, stage, settings.stages),
        owners=sum(owner.stage == stage for owner in owners),
        samples=sum(owner.samples[stage] for owner in owners),
        epochs=settings.training.stage_epochs(stage),
        steps=round(sum(shard[stage].steps for shard in chosen.shards)),
        deletions_share=sum(shard[stage].hit for shard in chosen.shards),
    )
