"""Learn: the continual-learning flow for one owner's new pictures.

1. Receive: every picture is read, checked and tested against the suppression list before anything is written.
2. Store the samples with the owner's shard and stage; commit (git + DVC).
3. Retrain that shard from the last checkpoint that the arrival doesn't change; recompute its centroids and reference moments.
4. Evaluate against what serves, on the enlarged reference for both sides.
5. Sign the decision and log it to MLflow; then promote, or keep what serves and ask a person.
"""

from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from cdm_core.composition.document import Composition
from cdm_core.digests import Json
from cdm_core.evaluation.quality_gate import GateResult
from flows.steps import describe_shards, evaluate, evaluation_pictures, start_training
from tasks.data.manifest_store import load_manifests
from tasks.ledger.case import Case, Served
from tasks.models import learning
from tasks.models.evaluation import ShardDescription
from tasks.training.shard_training import TrainedShard, stage_steps
from tasks.workspace import Workspace


@flow(name="learn")
def learn(root: str, request_id: str, shard: int) -> dict[str, Json]:
    """Teach `shard` the samples that were stored for it; run it inside a worker pool. Returns the answer of `lethe learn`."""
    [training] = start_training(root, [shard])  # 3
    describing = describe_shards.submit(root)
    trained, descriptions = training.result(), describing.result()
    if _case(root, request_id).find("decided") is None:
        before, candidate = compose_learned(root, request_id, trained, descriptions)
        gate = evaluate(root, before, candidate, descriptions)  # 4
        decide(root, request_id, before, candidate, gate, trained)  # 5
    return close(root, request_id)


@task(cache_policy=NO_CACHE)
def compose_learned(
    root: str, request_id: str, trained: TrainedShard, descriptions: list[ShardDescription]
) -> tuple[Composition, Composition]:
    """(what serves, the candidate); the new adapter is committed to DVC."""
    return learning.compose_learned(_case(root, request_id), trained, descriptions)


@task(cache_policy=NO_CACHE)
def decide(root: str, request_id: str, before: Composition, candidate: Composition, gate: GateResult, trained: TrainedShard) -> Served:
    """Sign and log the decision, then promote on a pass; a side effect, done once."""
    ws = Workspace(Path(root))
    steps_full = sum(sum(stage_steps(frame, ws.settings())) for frame in load_manifests(ws).values())
    pictures = evaluation_pictures(root)
    return learning.decide_learned(_case(root, request_id), before, candidate, gate, pictures, trained, steps_full)


@task(cache_policy=NO_CACHE)
def close(root: str, request_id: str) -> dict[str, Json]:
    """Keep the answer."""
    return learning.close_learned(_case(root, request_id))


def _case(root: str, request_id: str) -> Case:
    return Case(Workspace(Path(root)), request_id)
