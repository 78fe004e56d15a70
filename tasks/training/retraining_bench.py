"""Retraining for `lethe bench forget`: really trained, with the training that the product uses, timed, and thrown away.

An adapter starts from its initial values where the product would start from a checkpoint: that takes the same time. Reads the workspace's
packs and changes nothing.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor

import pandas as pd

from cdm_core.adapters import initial_adapter
from cdm_core.sharding.retraining_sides import Retraining, SideRules
from cdm_core.training import StagePosition, train_stage
from tasks.data.manifest_store import load_manifests
from tasks.training.shard_training import load_stage, scratch_model
from tasks.training.workers import report_progress
from tasks.workspace import Workspace


def load_rows(ws: Workspace) -> pd.DataFrame:
    """All manifests as one table with a unique index."""
    return pd.concat(load_manifests(ws).values(), ignore_index=True)


def warm_up(ws: Workspace) -> None:
    """Load the backbone in this worker, which a running service has done long ago."""
    scratch_model(ws.settings().training.rank)


def time_retrainings(pool: Executor, ws: Workspace, rules: SideRules, rows: pd.DataFrame, retrainings: Sequence[Retraining]) -> float:
    """Seconds until all adapters are retrained, in parallel processes of one thread, the longest first."""
    ordered = sorted(retrainings, key=lambda retraining: -rules.count_steps([retraining]))
    started = time.perf_counter()
    pending = [pool.submit(_retrain, ws, rules, rows.loc[_rows_of(retraining)], retraining) for retraining in ordered]
    for future in pending:
        future.result()
    return time.perf_counter() - started


def _rows_of(retraining: Retraining) -> list[int]:
    return sorted({row for stage in retraining.stages for row in stage.rows})


def _retrain(ws: Workspace, rules: SideRules, rows: pd.DataFrame, retraining: Retraining) -> None:
    backbone, model = scratch_model(rules.settings.training.rank)
    adapter = initial_adapter(model, retraining.position)
    for number, stage in enumerate(retraining.stages, start=retraining.first):
        position, samples = StagePosition(shard=retraining.position, stage=number), load_stage(ws, rows.loc[list(stage.rows)])
        settings = rules.settings.training.model_copy(update={"epochs": [stage.epochs] * (number + 1)})
        adapter = train_stage(backbone, model, adapter, samples, position, settings, on_step=lambda: report_progress("steps"))
