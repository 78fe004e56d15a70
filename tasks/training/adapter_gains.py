"""Whether an adapter earns its place: the denoising loss on its shard's own pictures, against the bare backbone.

Noise and times are fixed by sample, so both sides see the same. Up to `MAX_SAMPLES` of the shard's samples are taken, evenly over its
manifest; they were trained on, so this says that the adapter learned its shard, not that it generalises.
"""

from dataclasses import dataclass

import pandas as pd

from cdm_core.adapters import adapter_from_bytes, merge_adapter
from cdm_core.training import compute_denoising_loss
from tasks.data.manifest_store import load_manifest
from tasks.training.shard_training import load_stage, shared_backbone
from tasks.workspace import Workspace

MAX_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterGain:
    """Mean squared velocity error of one shard's pictures, without and with its adapter; None for a shard without samples."""

    shard: int
    loss_backbone: float | None
    loss_adapter: float | None


def measure_gain(ws: Workspace, shard: int) -> AdapterGain:
    """Measure one shard's adapter as it lies in the workspace. Run it in a process of one thread."""
    manifest = load_manifest(ws, shard)
    if manifest.empty:
        return AdapterGain(shard=shard, loss_backbone=None, loss_adapter=None)
    backbone, samples = shared_backbone(), load_stage(ws, spread(manifest, MAX_SAMPLES))
    expert = merge_adapter(backbone, adapter_from_bytes(ws.adapter(shard).read_bytes()))
    losses = [compute_denoising_loss(backbone, network, samples, seed=0) for network in (backbone.network, expert)]
    return AdapterGain(shard=shard, loss_backbone=losses[0], loss_adapter=losses[1])


def spread(manifest: pd.DataFrame, num: int) -> pd.DataFrame:
    """At most `num` rows, evenly over the manifest."""
    step = max(1, -(-len(manifest) // num))
    return manifest.iloc[::step].reset_index(drop=True)
