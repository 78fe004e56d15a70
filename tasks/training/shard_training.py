"""Training one shard through its stages, from the last clean checkpoint that the store holds.

The same function serves the flows (in worker processes), `dvc repro` (through `lethe train-shard`) and an auditor's replay: there is
one way to make an adapter.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

from cdm_core.adapters import adapter_from_bytes, adapter_to_bytes, attach_adapter, initial_adapter
from cdm_core.backbone import PixelBackbone, compute_backbone_digest, load_backbone
from cdm_core.chain import compute_chain, num_reusable_stages
from cdm_core.digests import Digest, sha256_digest
from cdm_core.divergence import require_finite
from cdm_core.settings import Settings
from cdm_core.sharding.manifests import samples_digest, stage_samples
from cdm_core.stage_origin import StageOrigin, stage_origins
from cdm_core.training import StagePosition, StageSamples, num_steps, train_stage
from tasks.data.manifest_store import load_manifest
from tasks.data.packs import load_pictures
from tasks.files import write_atomically
from tasks.training.checkpoints import CheckpointStore
from tasks.training.fingerprints import measure_own_fingerprint
from tasks.training.workers import report_progress
from tasks.workspace import Workspace

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedShard:
    """What training a shard did: its chain of keys, and the digest of the adapter at its end."""

    shard: int
    samples: int
    adapter: Digest
    chain: tuple[Digest, ...]
    stages_reused: int
    steps: int
    steps_full: int
    seconds: float


def plan_chain(manifest: pd.DataFrame, shard: int, settings: Settings) -> list[Digest]:
    """The keys of a shard's stages for the samples that a manifest lists."""
    digests = [samples_digest(stage_samples(manifest, stage)) for stage in range(settings.stages)]
    return compute_chain(shard, digests, settings.training, shared_backbone_digest(), measure_own_fingerprint())


def plan_origins(manifest: pd.DataFrame, shard: int, settings: Settings) -> list[StageOrigin]:
    """What each of those keys is made of."""
    samples = [stage_samples(manifest, stage) for stage in range(settings.stages)]
    stages = [(samples_digest(rows), len(rows)) for rows in samples]
    keys = plan_chain(manifest, shard, settings)
    return stage_origins(keys, stages, settings.training, shared_backbone_digest(), measure_own_fingerprint())


def stage_steps(manifest: pd.DataFrame, settings: Settings) -> list[int]:
    """Optimiser steps of each stage."""
    return [num_steps(len(stage_samples(manifest, stage)), settings.training, stage) for stage in range(settings.stages)]


def training_left(workspace: Workspace, shard: int) -> tuple[int, int]:
    """Of a shard's training today: (stages that the checkpoint store holds, optimiser steps that the others take)."""
    settings, store, manifest = workspace.settings(), CheckpointStore(workspace.checkpoints), load_manifest(workspace, shard)
    reused = num_reusable_stages(plan_chain(manifest, shard, settings), store.has)
    return reused, sum(stage_steps(manifest, settings)[reused:])


def longest_first(workspace: Workspace, shards: Sequence[int]) -> list[int]:
    """Shards by the steps that training them takes today, so that no worker begins the longest when the others are done."""
    if len(shards) < 2:
        return list(shards)
    left = {shard: training_left(workspace, shard)[1] for shard in shards}
    return sorted(shards, key=lambda shard: -left[shard])


def train_shard(workspace: Workspace, shard: int) -> TrainedShard:
    """Train what the checkpoint store doesn't hold, store each stage, and put the adapter at its place in the workspace.

    Reports progress as "steps". Run it in a process of one thread.

    Raises:
        InvalidInputError: training diverged; nothing of that stage is stored.
    """
    started = time.monotonic()
    settings, manifest = workspace.settings(), load_manifest(workspace, shard)
    store = CheckpointStore(workspace.checkpoints)
    chain, steps = plan_chain(manifest, shard, settings), stage_steps(manifest, settings)
    reused = num_reusable_stages(chain, store.has)
    report_progress("steps", sum(steps[:reused]))
    if reused < len(chain):
        backbone, model = scratch_model(settings.training.rank)
        origins = plan_origins(manifest, shard, settings)
        adapter = adapter_from_bytes(store.read(chain[reused - 1])) if reused else initial_adapter(model, shard)
        for stage in range(reused, len(chain)):
            position, begun = StagePosition(shard=shard, stage=stage), time.monotonic()
            samples = load_stage(workspace, stage_samples(manifest, stage))
            trained = train_stage(backbone, model, adapter, samples, position, settings.training, on_step=lambda: report_progress("steps"))
            adapter, seconds = require_finite(trained, position), time.monotonic() - begun
            store.write(chain[stage], adapter_to_bytes(adapter), shard=shard, stage=stage, origin=origins[stage], seconds=seconds)
    content = store.read(chain[-1])
    workspace.adapter(shard).parent.mkdir(exist_ok=True)
    write_atomically(workspace.adapter(shard), content)
    return TrainedShard(
        shard=shard,
        samples=len(manifest),
        adapter=sha256_digest(content),
        chain=tuple(chain),
        stages_reused=reused,
        steps=sum(steps[reused:]),
        steps_full=sum(steps),
        seconds=time.monotonic() - started,
    )


def adapter_of_today(workspace: Workspace, shard: int) -> Digest | None:
    """The adapter that a shard's present samples make, if the checkpoint store holds it."""
    store, last = CheckpointStore(workspace.checkpoints), plan_chain(load_manifest(workspace, shard), shard, workspace.settings())[-1]
    return store.digest(last) if store.has(last) else None


def load_stage(workspace: Workspace, rows: pd.DataFrame) -> StageSamples:
    """The pictures and captions of manifest rows."""
    pictures = load_pictures(workspace, rows)
    return StageSamples(sample_ids=rows["sample_id"].tolist(), captions=rows["caption"].tolist(), pictures=pictures)


@cache
def shared_backbone() -> PixelBackbone:
    """The backbone, loaded once a process."""
    return load_backbone()


@cache
def shared_backbone_digest() -> Digest:
    """Its digest, computed once a process, without loading it."""
    return compute_backbone_digest()


@cache
def scratch_model(rank: int) -> "tuple[PixelBackbone, PeftModel]":
    """The backbone with an adapter attached that is overwritten by whoever trains, made once a process."""
    backbone = shared_backbone()
    return backbone, attach_adapter(backbone, rank)
