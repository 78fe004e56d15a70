"""Forget: the procedure for a deletion request.

 1. Receive: the bytes were kept and the signature verified before parsing (`tasks.requests.intake`, before this flow starts).
 2. Resolve the request, or all that wait together (`tasks.requests.batches`), to owners, shards, stages and samples.
 3. Plan what will be retrained, reused and erased; the plan is kept until the request is closed.
 4. Approval: the registered issuer's signature over the request is all that policy asks for here.
 5. Stop: compose each hit shard's last clean checkpoint, sign, log, promote. From here on nothing served uses the data.
 6. Take the samples out of packs and manifests; commit that (git + DVC), which goes on beside what follows.
 7. Retrain the hit shards' tainted stages, shards in parallel, and the classifier of the non-local method, if there is one, whichever
    shards are hit. Meanwhile recompute centroids and reference moments, draw what the gate will ask of the model that served before, and
    take the losses of the adapters before on what is erased.
 8. Evaluate: the quality gate between what served before and the candidate. Beside it, commit the adapters, register the candidate, and
    look for traces, by membership inference and nearest neighbours: evidence, which no decision asks.
 9. Sign the decision and log it to MLflow; then promote, or leave the stopped composition serving and ask a person.
10. Suppress what was erased; purge every store, and list each again.
11. Sign the closing record with the counts, and answer.

Compliance never waits for quality: steps 10 and 11 follow whatever the verdict. A flow that was killed is started again from the top by
the same `lethe submit`: what the ledger holds as done is read there, and a step that was cut short finds what it had made by digest.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from cdm_core.composition.document import Composition
from cdm_core.digests import Digest, Json
from cdm_core.evaluation.membership import Membership
from cdm_core.evaluation.neighbours import Neighbours
from flows.steps import describe_shards, evaluation_pictures, generate, judge, start_training
from tasks.deletion import forgetting, purging
from tasks.deletion.attacking import find_neighbours_of, queue_attack, recall_losses_of
from tasks.deletion.membership import Recalled
from tasks.evidence.traces import describe_traces
from tasks.ledger.case import Case, Served
from tasks.models.deciding import Judged
from tasks.models.evaluation import ShardDescription
from tasks.plans.planning import ForgetPlan
from tasks.requests import batches
from tasks.requests.notifying import Stage, tell
from tasks.training.classifiers import retrain_classifier as train_again
from tasks.training.shard_training import TrainedShard
from tasks.training.workers import active_pool
from tasks.workspace import Workspace


@flow(name="forget")
def forget(root: str, request_id: str) -> dict[str, Json]:
    """Forget what the request names, in the workspace at `root`; run it inside a worker pool. Returns the answer of `lethe submit`."""
    plan = make_plan(root, request_id)  # 2, 3, 4
    if not plan.hits:
        return wait(root, request_id, plan)
    stop(root, request_id)  # 5
    remove(root, request_id)  # 6
    retrained = retrain(root, request_id, [shard.shard for shard in plan.shards])  # 7
    recording = commit_adapters.submit(root, request_id, retrained.shards)
    judged = evaluate(root, request_id, retrained) if awaits_decision(root, request_id) else None  # 8
    recording.result()
    if judged is not None:
        decide(root, request_id, judged, retrained)  # 9
    purge(root, request_id, retrained.descriptions)  # 10
    return close(root, request_id)  # 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """What step 7 leaves: the hit shards, every shard's description, the classifier, and losses of the adapters before."""

    shards: list[TrainedShard]
    descriptions: list[ShardDescription]
    classifier: Digest | None
    recalled: Recalled


def retrain(root: str, request_id: str, shards: Sequence[int]) -> Retrained:
    """Step 7, and the commit of step 6; all at once, as far as there are cores."""
    committing = commit_removal.submit(root, request_id)
    training = start_training(root, shards)
    describing, classifying, recalling = describe_shards.submit(root), retrain_classifier.submit(root), recall.submit(root, request_id)
    drawing = [generate.submit(root, serving) for serving in served_before(root, request_id)]
    retrained = Retrained(
        shards=[future.result() for future in training],
        descriptions=describing.result(),
        classifier=classifying.result(),
        recalled=recalling.result(),
    )
    committing.result(), [future.result() for future in drawing]
    return retrained


def evaluate(root: str, request_id: str, retrained: Retrained) -> Judged:
    """Step 8. What takes longest comes first."""
    started = time.monotonic()
    before, candidate = compose_candidate(root, request_id, retrained.shards, retrained.descriptions)
    attacked = attack.submit(queue_attack(_case(root, request_id), candidate, retrained.recalled))
    registering = register.submit(root, request_id, candidate)
    generate(root, candidate)
    looking = look_at_neighbours.submit(root, request_id, before, candidate)
    gate = judge(root, before, candidate, retrained.descriptions)
    registering.result()
    traces = describe_traces(attacked.result(), looking.result())
    pictures, seconds = evaluation_pictures(root), time.monotonic() - started
    return Judged(before=before, candidate=candidate, gate=gate, pictures=pictures, traces=traces, seconds=seconds)


@task(cache_policy=NO_CACHE)
def make_plan(root: str, request_id: str) -> ForgetPlan:
    """Resolve and plan, or read the plan of a flow that was cut short."""
    case = _case(root, request_id)
    return batches.plan_batch(case) if batches.is_batch(request_id) else forgetting.plan_request(case)


@task(cache_policy=NO_CACHE)
def wait(root: str, request_id: str, plan: ForgetPlan) -> dict[str, Json]:
    """All that the request names is held; it's taken up again when a hold ends."""
    return forgetting.wait_for_holds(_case(root, request_id), plan)


@task(cache_policy=NO_CACHE)
def stop(root: str, request_id: str) -> Served:
    """Promote the clean checkpoints; a side effect, done once."""
    served = forgetting.stop_serving(_case(root, request_id))
    _tell(root, request_id, "stopped")
    return served


@task(cache_policy=NO_CACHE)
def remove(root: str, request_id: str) -> None:
    """Take the samples out of packs and manifests."""
    forgetting.remove_data(_case(root, request_id))


@task(cache_policy=NO_CACHE)
def commit_removal(root: str, request_id: str) -> str:
    """Commit packs and manifests without the samples; returns the data revision."""
    return forgetting.commit_removal(_case(root, request_id))


@task(cache_policy=NO_CACHE)
def commit_adapters(root: str, request_id: str, trained: list[TrainedShard]) -> None:
    """Commit the retrained adapters to DVC."""
    forgetting.commit_adapters(_case(root, request_id), trained)


@task(cache_policy=NO_CACHE)
def retrain_classifier(root: str) -> Digest | None:
    """Train the classifier of today's samples, in a worker process, where there was one; returns its file's digest."""
    return active_pool().submit(train_again, Workspace(Path(root))).result()


@task(cache_policy=NO_CACHE)
def compose_candidate(
    root: str, request_id: str, trained: list[TrainedShard], descriptions: list[ShardDescription]
) -> tuple[Composition, Composition]:
    """(what served before, the candidate)."""
    return forgetting.compose_candidate(_case(root, request_id), trained, descriptions)


@task(cache_policy=NO_CACHE)
def recall(root: str, request_id: str) -> Recalled:
    """Losses of the adapters before, while their data can still be read."""
    return recall_losses_of(_case(root, request_id))


@task(cache_policy=NO_CACHE)
def attack(queued: Future[Membership | str]) -> Membership | str:
    """Membership inference before and after, or why there is none."""
    return queued.result()


@task(cache_policy=NO_CACHE)
def look_at_neighbours(root: str, request_id: str, before: Composition, candidate: Composition) -> Neighbours | str:
    """Nearest neighbours of the evaluation pictures before and after, or why there are none."""
    return find_neighbours_of(_case(root, request_id), before, candidate, evaluation_pictures(root))


@task(cache_policy=NO_CACHE)
def register(root: str, request_id: str, candidate: Composition) -> int:
    """Register the candidate's files with MLflow ahead of the decision, which names the version."""
    return forgetting.register_candidate(_case(root, request_id), candidate)


@task(cache_policy=NO_CACHE)
def decide(root: str, request_id: str, judged: Judged, retrained: Retrained) -> Served:
    """Sign and log the decision, then promote on a pass; a side effect, done once."""
    return forgetting.decide_forgotten(_case(root, request_id), judged, retrained.shards, retrained.classifier)


@task(cache_policy=NO_CACHE)
def purge(root: str, request_id: str, descriptions: list[ShardDescription]) -> dict[str, int]:
    """Suppress and erase, and list every store again; a side effect, done once."""
    return purging.purge_request(_case(root, request_id), descriptions, evaluation_pictures(root))


@task(cache_policy=NO_CACHE)
def close(root: str, request_id: str) -> dict[str, Json]:
    """Sign the closing record, of a batch those of its requests first, and keep the answer."""
    if batches.is_batch(request_id):
        batches.close_members(_case(root, request_id))
    answer = purging.close_request(_case(root, request_id))
    _tell(root, request_id, "closed")
    return answer


def served_before(root: str, request_id: str) -> list[Composition]:
    """What the gate compares with, unless it has judged already."""
    case = _case(root, request_id)
    return [forgetting.served_before(case)] if awaits_decision(root, request_id) else []


def awaits_decision(root: str, request_id: str) -> bool:
    """Whether an earlier run of this flow got no further than retraining."""
    return _case(root, request_id).find("decided") is None


def _tell(root: str, request_id: str, stage: Stage) -> None:
    case = _case(root, request_id)
    for name in batches.requests_of(case):
        tell(case.ws, name, stage)


def _case(root: str, request_id: str) -> Case:
    return Case(Workspace(Path(root)), request_id)
