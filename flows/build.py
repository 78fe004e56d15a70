"""Build: train every shard's adapter through its stages, compose, evaluate, sign, log, register, promote.

1. Check that the data is that of its revision (git + DVC), and make sure that the MLflow store exists.
2. Train the shards in parallel; stages that the checkpoint store holds are reused.
3. Recompute kNN centroids and reference moments.
4. Compose, judge the composition against the bare backbone, and measure what each adapter gains on its own shard.
5. Commit the adapters as what `dvc.yaml` makes.
6. Register the version, sign the record, log both to MLflow; then promote.

A build always promotes: there is nothing older that could serve in its place but what it was made from. Its verdict is recorded.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import Json
from cdm_core.evaluation.quality_gate import GateResult
from flows.steps import describe_shards, evaluate, evaluation_pictures, measure, start_training
from tasks.clock import utc_now
from tasks.data.data_versions import commit_data, commit_training, require_committed
from tasks.evidence.audit_log import AuditSummary, end_run, open_run
from tasks.ledger.store import Ledger
from tasks.models.compositions import compose, expert_of, save_composition
from tasks.models.promotion import PREPARED
from tasks.models.release import (
    adapters_by_shard,
    champion_composition,
    data_artifacts,
    draw_grids,
    log_release,
    promote_version,
    register,
    sign_record,
)
from tasks.models.tracking import create_tracking
from tasks.training.adapter_gains import AdapterGain
from tasks.training.shard_training import TrainedShard
from tasks.workspace import Workspace


@flow(name="build")
def build(root: str) -> dict[str, Json]:
    """Build the workspace at `root`; run it inside a worker pool. Returns the answer of `lethe build` without its seconds."""
    shards = Workspace(Path(root)).settings().shard_ids
    prepare(root)  # 1
    training = start_training(root, shards)  # 2
    describing = describe_shards.submit(root)  # 3
    trained, descriptions = [future.result() for future in training], describing.result()
    bare, candidate = compose_build(root, trained, [expert_of(*pair) for pair in zip(trained, descriptions, strict=True)])  # 4
    gate = evaluate(root, bare, candidate, descriptions)
    measuring = [measure.submit(root, shard) for shard in shards]
    gains = [future.result() for future in measuring]
    revision = commit_adapters(root)  # 5
    return release(root, bare, candidate, gate, trained, gains, revision)  # 6


@task(cache_policy=NO_CACHE)
def prepare(root: str) -> str:
    """Make the MLflow store, and see that the data is that of its revision and in the DVC remote; returns the revision."""
    ws = Workspace(Path(root))
    create_tracking(ws)
    require_committed(ws, ws.settings().shard_ids, in_cache=False)
    return commit_data(ws, ws.settings().shard_ids, "Version the data")


@task(cache_policy=NO_CACHE)
def commit_adapters(root: str) -> str:
    """Record the adapters in `dvc.lock` and commit; returns the revision."""
    ws = Workspace(Path(root))
    return commit_training(ws, ws.settings().shard_ids, "Build every shard's adapter")


@task(cache_policy=NO_CACHE)
def compose_build(root: str, trained: Sequence[TrainedShard], experts: Sequence[Expert]) -> tuple[Composition, Composition]:
    """(the bare backbone, the composition of all experts), both saved."""
    ws = Workspace(Path(root))
    compositions = compose(ws.settings(), []), compose(ws.settings(), experts)
    for composition in compositions:
        save_composition(ws, composition)
    return compositions


@task(cache_policy=NO_CACHE)
def release(
    root: str,
    bare: Composition,
    candidate: Composition,
    gate: GateResult,
    trained: Sequence[TrainedShard],
    gains: Sequence[AdapterGain],
    revision: str,
) -> dict[str, Json]:
    """Register, sign, log, promote."""
    ws, ledger, now = Workspace(Path(root)), Ledger(Workspace(Path(root))), utc_now()
    step_key = f"build:{candidate.digest}"
    serving = champion_composition(ws)
    run_id = open_run(ws, name="build", step_key=step_key, tags={"kind": "build"})
    version = register(ws, candidate, run_id=run_id, purpose="build", step_key=step_key)
    content: dict[str, Json] = {
        "decision": "promoted",
        "gate": asdict(gate),
        "dvc_revision": revision,
        "adapters": adapters_by_shard(candidate),
        "denoising_losses": {str(gain.shard): [gain.loss_backbone, gain.loss_adapter] for gain in gains},
        "checkpoints": {str(shard.shard): list(shard.chain) for shard in trained},
        "artifacts": data_artifacts(ws, candidate.shards),
    }
    is_new = serving is None or serving[0] != version
    # A model that was built before, and serves no more, is promoted once more: that has a record of its own.
    record_key = f"{step_key}:{_num_promotions(ledger) + is_new}"
    record = sign_record(ws, "build", candidate, version=version, step_key=record_key, now=now, content=content)
    summary = AuditSummary(
        kind="build",
        request_id=None,
        verdict=gate.verdict,
        fd_before=gate.fd_before,
        fd_after=gate.fd_after,
        margin=gate.margin,
        shards_hit=list(candidate.shards),
        shards_reused=[],
        samples_removed=0,
        samples_added=sum(shard.samples for shard in trained),
        steps_retrained=sum(shard.steps for shard in trained),
        steps_full_build=sum(shard.steps_full for shard in trained),
        stopped_version=None,
        model_version=version,
        record_names=[record.name],
    )
    grids = draw_grids(ws, evaluation_pictures(root), {"before": bare, "after": candidate}, filed_under=candidate)
    log_release(ws, run_id, summary, gate, grids, [record])
    if is_new:
        promote_version(ws, ledger, version, expected=serving[0] if serving else None, request_id=None, now=now)
    end_run(ws, run_id, "FINISHED")
    rows: list[Json] = [_describe_shard(shard, gain) for shard, gain in zip(trained, gains, strict=True)]
    return {
        "model_version": version,
        "composition": candidate.digest,
        "shards": rows,
        "gate": asdict(gate),
        "audit_record": str(record),
        "mlflow_run_id": run_id,
    }


def _num_promotions(ledger: Ledger) -> int:
    """How many builds began to promote what they had made."""
    return sum(event.request_id is None for event in ledger.events(kind=PREPARED))


def _describe_shard(trained: TrainedShard, gain: AdapterGain) -> dict[str, Json]:
    return {
        "shard": trained.shard,
        "samples": trained.samples,
        "steps": trained.steps,
        "steps_full": trained.steps_full,
        "adapter": trained.adapter,
        "loss_backbone": gain.loss_backbone,
        "loss_adapter": gain.loss_adapter,
    }
