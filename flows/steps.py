"""The Prefect tasks that the flows share: each is one visible step around one function of `tasks`.

Parameters are paths, numbers and digests. Nothing is cached by Prefect: every step is keyed by content in a store of our own, and a
side effect that was answered from a cache would not have happened.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from cdm_core.composition.document import Composition
from cdm_core.evaluation.quality_gate import GateResult
from tasks.data.manifest_store import load_manifests
from tasks.models.compositions import adapter_files, centroid_files
from tasks.models.evaluation import (
    PictureRequest,
    ShardDescription,
    choose_pictures,
    describe_shard,
    generate_for,
    judge_compositions,
)
from tasks.training.adapter_gains import AdapterGain, measure_gain
from tasks.training.shard_training import TrainedShard, longest_first, train_shard
from tasks.training.workers import active_pool
from tasks.workspace import Workspace


def start_training(root: str, shards: Sequence[int]) -> list[PrefectFuture[TrainedShard]]:
    """Have the shards trained ahead of all that the workers are asked afterwards: nothing takes longer."""
    ws = Workspace(Path(root))
    queued = {shard: active_pool().submit(train_shard, ws, shard) for shard in longest_first(ws, shards)}
    return [train.submit(shard, queued[shard]) for shard in shards]


@task(task_run_name="train shard {shard}", cache_policy=NO_CACHE)
def train(shard: int, training: Future[TrainedShard]) -> TrainedShard:
    """Train one shard from its last clean checkpoint, in a worker process."""
    return training.result()


@task(cache_policy=NO_CACHE)
def describe_shards(root: str) -> list[ShardDescription]:
    """Recompute the kNN centroids and reference moments of every shard whose samples changed, in worker processes."""
    ws, pool = Workspace(Path(root)), active_pool()
    describing = [pool.submit(describe_shard, ws, shard) for shard in ws.settings().shard_ids]
    return [description.result() for description in describing]


@task(task_run_name="measure shard {shard}", cache_policy=NO_CACHE)
def measure(root: str, shard: int) -> AdapterGain:
    """Measure what one shard's adapter gains over the bare backbone, in a worker process."""
    return active_pool().submit(measure_gain, Workspace(Path(root)), shard).result()


def evaluate(root: str, before: Composition, after: Composition, descriptions: list[ShardDescription]) -> GateResult:
    """Generate what neither side has in its cache, then judge `after` against `before`."""
    for composition in (before, after):
        generate(root, composition)
    return judge(root, before, after, descriptions)


@task(cache_policy=NO_CACHE)
def generate(root: str, composition: Composition) -> None:
    """Generate what evaluation asks of a composition and the cache lacks, in worker processes."""
    ws = Workspace(Path(root))
    generate_for(active_pool(), ws, composition, adapter_files(ws, composition), centroid_files(ws, composition), evaluation_pictures(root))


@task(cache_policy=NO_CACHE)
def judge(root: str, before: Composition, after: Composition, descriptions: list[ShardDescription]) -> GateResult:
    """Judge `after` against `before` by what was generated, in a worker process."""
    moments = [description.moments_file for description in descriptions]
    return active_pool().submit(judge_compositions, Workspace(Path(root)), before, after, evaluation_pictures(root), moments).result()


def evaluation_pictures(root: str) -> list[PictureRequest]:
    """What the gate asks of both sides, a function of the present manifests."""
    ws = Workspace(Path(root))
    evaluation = ws.settings().evaluation
    return choose_pictures(load_manifests(ws), num=evaluation.samples, seed=evaluation.seed)
