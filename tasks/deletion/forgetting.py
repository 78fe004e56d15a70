"""Steps 2 to 9 of the forget flow: plan, stop, remove, commit, compose and decide on the candidate. `flows.forget` gives their order.

The ledger says what has happened. A step's entry follows its effect, so a flow that was cut short does its last step again, and every
step finds by digest or step key what it made before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import RequestRefusedError, StateError
from cdm_core.intake.reception import parse_any
from cdm_core.intake.requests import DeletionRequest
from tasks.clock import utc_now
from tasks.data.data_versions import commit_data, commit_training, data_revision, require_committed
from tasks.data.manifest_store import load_manifest
from tasks.data.samples import remove_samples
from tasks.deletion.suppression import refuse_resurrected
from tasks.ledger.case import Case, Served, read_served
from tasks.ledger.store import Ledger
from tasks.models.compositions import expert_of, load_composition, replace_experts, save_composition
from tasks.models.deciding import Judged, Work, audit_run, decide, register_for_decision
from tasks.models.evaluation import ShardDescription, centroids_file, prefix_rows
from tasks.models.release import adapters_by_shard, champion_composition, log_stop, manifest_digests, promote_version, register, sign_record
from tasks.plans.duplicates import load_choice
from tasks.plans.planning import ForgetPlan, build_plan, load_plan, save_plan, summarise_plan
from tasks.requests.due import describe_clock
from tasks.requests.identities import keep_outcomes
from tasks.requests.intake import read_format, read_syntax
from tasks.requests.request_images import images_folder, with_kept_images
from tasks.training.checkpoints import CheckpointStore
from tasks.training.shard_training import TrainedShard, training_left
from tasks.workspace import Workspace

IDENTITY = "the request's bytes were signed with a registered issuer's key"
WHY_CLEAN = "each key is a hash over all samples of its stages and of the stages before; none of them is to be erased"


def plan_request(case: Case) -> ForgetPlan:
    """Work out the plan and what serves now, or read both again; the clock of the stop starts here.

    Raises:
        RequestRefusedError: the request names nothing that is here.
        StateError: nothing has been built, the data isn't that of its revision, or what was erased is back.
    """
    if case.find("planned") and (kept := load_plan(case.ws, case.request_id)):
        return kept
    stored = Ledger(case.ws).request(case.request_id)
    serving = champion_composition(case.ws)
    if stored is None or serving is None:
        raise StateError(f"request {case.request_id}: there is no model to forget from; run: lethe build")
    require_committed(case.ws, case.ws.settings().shard_ids)
    refuse_resurrected(case.ws)
    received = case.find("received")
    assert stored.content is not None, "the bytes of an open request are kept"
    assert received is not None, "a stored request was received"
    request = find_request(case.ws, stored.content, case.request_id, received)
    keep_outcomes(case.ws, request, utc_now())
    folder, choice = images_folder(case.ws, case.request_id), load_choice(case.ws, case.request_id)
    plan = build_plan(case.ws, request, stored.digest, str(received["issuer_key"]), folder, choice=choice, was_kept=True)
    return record_plan(case, plan, serving, {}) if plan.hits else plan


def record_plan(case: Case, plan: ForgetPlan, serving: tuple[int, Composition], details: Mapping[str, Json]) -> ForgetPlan:
    """Keep the plan until the case is closed, and let the ledger know it and what serves now; `details` are added to the event."""
    save_plan(case.ws, plan)
    version, composition = serving
    body = summarise_plan(plan) | {"version": version, "composition": composition.digest, "dvc_revision": data_revision(case.ws)}
    body |= details
    body["manifests"] = manifest_digests(case.ws, [shard.shard for shard in plan.shards])
    case.finish("planned", body, status="planned")
    return plan


def wait_for_holds(case: Case, plan: ForgetPlan) -> dict[str, Json]:
    """All that the request names is held: it waits, and nothing was done. Returns the answer of `lethe submit`.

    It isn't planned again: a hold may have ended since, and the next sweep puts back in the queue what waits for that.
    """
    assert not plan.hits, "only what is wholly held waits"
    answer: dict[str, Json] = {
        "request_id": case.request_id,
        "status": "held",
        "held_samples": plan.held_samples,
        "holds": list(plan.holds),
    }
    case.finish("held", {"held_samples": plan.held_samples, "holds": list(plan.holds)})
    Ledger(case.ws).set_status(case.request_id, "held", answer)
    return answer


def exemption_of(plan: ForgetPlan) -> Json:
    """What a record says of samples that weren't erased; None if there are none."""
    return {"held_samples": plan.held_samples, "holds": list(plan.holds)} if plan.held_samples else None


def find_request(ws: Workspace, content: bytes, request_id: str, received: Mapping[str, Json]) -> DeletionRequest:
    """The request of that id in the ledger among those of a file's bytes, whose signature was verified when it was received.

    `received` is that event's body, which says how to read them; pictures have the names by which they are kept.

    Raises:
        RequestRefusedError: it isn't there.
    """
    sent_id = request_id.partition("@")[0]
    form, syntax = read_format(received), read_syntax(received, content)
    for request in parse_any(content, request_id, form, business=ws.settings().intake.business, syntax=syntax)[0]:
        if request.request_id == sent_id:
            return with_kept_images(ws, replace(request, request_id=request_id))
    raise RequestRefusedError(f"request {request_id}: not in the bytes that were kept for it", reason="not_in_file")


def stop_serving(case: Case) -> Served:
    """Compose the clean checkpoints, register, sign, log, promote; the seconds since planning are recorded."""
    if done := case.find("stopped"):
        return read_served(done)
    plan, planned = kept_plan(case), case.finished("planned")
    before = read_served(planned)
    now, ledger = utc_now(), Ledger(case.ws)
    stopped = compose_stopped(case.ws, plan, load_composition(case.ws, before.composition))
    run_id = audit_run(case, "forget")
    version = register(case.ws, stopped, run_id=run_id, purpose="stop", step_key=case.step_key("stop"))
    content: dict[str, Json] = {
        "decision": "stopped",
        "plan": summarise_plan(plan),
        "regulation": plan.regulation or None,
        "issuer_key": plan.issuer_key or None,
        "requests": planned.get("requests"),
        "identity": IDENTITY,
        "request_digest": plan.request_digest,
        "request_format": _request_format(case),
        "affected_shards": [shard.shard for shard in plan.shards],
        "dvc_revision_before": planned["dvc_revision"],
        "manifests_before": planned.get("manifests"),
        "promotion": {"version": version, "replaces": before.version},
        "replaces_version": before.version,
        "adapters": adapters_by_shard(stopped),
        "clean_checkpoints": {str(shard.shard): shard.clean_checkpoint for shard in plan.shards},
        "why_clean": WHY_CLEAN,
    }
    record = sign_record(case.ws, "stop", stopped, version=version, step_key=case.step_key("stop"), now=now, content=content)
    note = f"Stopped: version {version} serves, composed from checkpoints that never saw the data. Retraining goes on."
    log_stop(case.ws, run_id, note, version, record)
    promote_version(case.ws, ledger, version, expected=before.version, request_id=case.request_id, now=utc_now())
    seconds = (utc_now() - _planned_at(case)).total_seconds()
    body: dict[str, Json] = {"version": version, "composition": stopped.digest, "seconds": seconds, "record": record.name}
    return read_served(case.finish("stopped", body, status="stopped"))


def compose_stopped(ws: Workspace, plan: ForgetPlan, serving: Composition) -> Composition:
    """The serving composition with each hit shard at its last clean checkpoint; a shard without one is left out."""
    store = CheckpointStore(ws.checkpoints)
    experts = []
    for shard in plan.shards:
        rows = prefix_rows(load_manifest(ws, shard.shard), shard.clean_stages)
        if shard.clean_checkpoint is not None and not rows.empty:
            # Without the file (its cache was deleted) the shard has no centroids for now, and only `knn` asks for them.
            centroids = centroids_file(ws, rows)
            digest = sha256_digest(centroids.read_bytes()) if centroids.is_file() else None
            adapter = store.digest(shard.clean_checkpoint)
            experts.append(Expert(shard=shard.shard, adapter=adapter, samples=len(rows), centroids=digest))
    return replace_experts(ws.settings(), serving, [shard.shard for shard in plan.shards], experts)


def remove_data(case: Case) -> None:
    """Take the samples out of packs and manifests, and record what that leaves to train."""
    plan = kept_plan(case)
    if case.find("removed") is None:
        remove_samples(case.ws, plan.hit_frame())
    if case.find("training") is None:
        left = {str(shard.shard): training_left(case.ws, shard.shard) for shard in plan.shards}
        reused: dict[str, Json] = {shard: stages for shard, (stages, _) in left.items()}
        case.finish("training", {"stages_reused": reused, "steps": sum(steps for _, steps in left.values())})


def commit_removal(case: Case) -> str:
    """Commit packs and manifests as they are now; returns the data revision. Nothing that training reads is touched."""
    if done := case.find("removed"):
        return str(done["dvc_revision"])
    plan = kept_plan(case)
    shards = [shard.shard for shard in plan.shards]
    revision = commit_data(case.ws, shards, f"Remove {len(plan.hits)} samples on request")
    case.finish("removed", {"dvc_revision": revision, "manifests": manifest_digests(case.ws, shards)}, status="retraining")
    return revision


def commit_adapters(case: Case, trained: Sequence[TrainedShard]) -> None:
    """Record in DVC that the retrained adapters are what their stages make; once they are committed that changes nothing."""
    commit_training(case.ws, [shard.shard for shard in trained], "Retrain the shards that a deletion hit")


def compose_candidate(
    case: Case, trained: Sequence[TrainedShard], descriptions: Sequence[ShardDescription]
) -> tuple[Composition, Composition]:
    """(what served before the request, the candidate with the retrained shards)."""
    stopped = case.finished("stopped")
    if case.find("retrained") is None:
        case.finish("retrained", {"steps": case.finished("training")["steps"], "seconds": training_seconds(case, trained)})
    described = {description.shard: description for description in descriptions}
    experts = [expert_of(shard, described[shard.shard]) for shard in trained]
    base = load_composition(case.ws, read_served(stopped).composition)
    candidate = replace_experts(case.ws.settings(), base, [shard.shard for shard in trained], experts)
    save_composition(case.ws, candidate)
    return served_before(case), candidate


def training_seconds(case: Case, trained: Sequence[TrainedShard]) -> float:
    """What training took, with the stages that an attempt finished before it was cut short; at least, since one cut short isn't counted."""
    store, reused = CheckpointStore(case.ws.checkpoints), case.finished("training")["stages_reused"]
    assert isinstance(reused, Mapping), "we wrote it"
    earlier = (key for shard in trained for key in shard.chain[int(str(reused[str(shard.shard)])) : shard.stages_reused])
    return sum(shard.seconds for shard in trained) + sum(store.seconds(key) for key in earlier)


def register_candidate(case: Case, candidate: Composition) -> int:
    """The candidate's model version, which the decision finds by its step key; nothing serves it yet."""
    return register_for_decision(case, candidate, "forget")


def served_before(case: Case) -> Composition:
    """What served when the case was planned."""
    return load_composition(case.ws, read_served(case.finished("planned")).composition)


def kept_plan(case: Case) -> ForgetPlan:
    """The plan of an open case.

    Raises:
        StateError: it's gone.
    """
    plan = load_plan(case.ws, case.request_id)
    if plan is None:
        raise StateError(f"request {case.request_id}: its plan is gone from {case.ws.ledger}")
    return plan


def _request_format(case: Case) -> Json:
    """As intake recorded it; before there were several formats, all requests were of our own."""
    return read_format(case.find("received") or {})


def _planned_at(case: Case) -> datetime:
    event = Ledger(case.ws).last("planned", case.request_id)
    assert event is not None, "a stop follows a plan"
    return event.at


def decide_forgotten(case: Case, judged: Judged, trained: Sequence[TrainedShard], classifier: Digest | None) -> Served:
    """Sign and log the decision on the candidate, then promote on a pass; `classifier` is the one that was trained again, if any."""
    plan, stopped, planned, removed = kept_plan(case), *(case.finished(step) for step in ("stopped", "planned", "removed"))
    work = Work(
        kind="forget",
        shards_hit=tuple(shard.shard for shard in plan.shards),
        samples_removed=len(plan.hits),
        samples_added=0,
        steps_retrained=plan.steps,
        steps_full_build=plan.steps_full_build,
        stopped_version=int(str(stopped["version"])),
        earlier_records=(str(stopped["record"]),),
    )
    content: dict[str, Json] = {
        "plan": summarise_plan(plan),
        "regulation": plan.regulation or None,
        "issuer_key": plan.issuer_key or None,
        "requests": planned.get("requests"),
        "identity": IDENTITY,
        "request_digest": plan.request_digest,
        "request_format": _request_format(case),
        "dvc_revision_before": planned["dvc_revision"],
        "dvc_revision_after": removed["dvc_revision"],
        "manifests_before": planned.get("manifests"),
        "manifests_after": removed.get("manifests"),
        "exemption": exemption_of(plan),
        "approvers": (case.find("plan_accepted") or {}).get("approvers"),
        **describe_clock(case.ws, case.request_id, utc_now()),
        "clean_checkpoints": {str(shard.shard): shard.clean_checkpoint for shard in plan.shards},
        "why_clean": WHY_CLEAN,
        "checkpoints": {str(shard.shard): list(shard.chain) for shard in trained},
        "steps": plan.steps,
    }
    if classifier is not None:
        content["classifier"] = classifier
    return decide(case, judged, work, read_served(stopped), content)
