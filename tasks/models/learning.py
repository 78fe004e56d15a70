"""What the learn flow does to a workspace around the training and evaluation that it shares with forgetting.

An arrival that was cut short before the ledger held it as stored must not be in the way of what comes next, a deletion above all. So the
next flow settles it first: if its samples were committed it's learnt, else they are taken back, and its owner may hand them in again. It's
planned anew then, on what serves by that time.
"""

from collections.abc import Mapping, Sequence

from cdm_core.composition.document import Composition
from cdm_core.digests import Json
from cdm_core.errors import StateError
from cdm_core.evaluation.quality_gate import GateResult
from tasks.clock import utc_now
from tasks.data.data_versions import commit_training, committed_last, data_revision, require_committed, restore_committed
from tasks.deletion.suppression import refuse_resurrected
from tasks.ledger.case import Case, Served, read_served
from tasks.ledger.store import Ledger
from tasks.models.compositions import expert_of, load_composition, replace_experts, save_composition
from tasks.models.deciding import Judged, Work, audit_run, close_run, decide
from tasks.models.evaluation import PictureRequest, ShardDescription
from tasks.models.release import champion_composition
from tasks.requests.arrivals import Arrival, arrival_message, commit_arrival, count_new, refuse_suppressed, store_arrival
from tasks.training.shard_training import TrainedShard, training_left
from tasks.workspace import Workspace


def receive_arrival(ws: Workspace, arrival: Arrival) -> Case:
    """Record the arrival in the ledger and store its samples; call it inside the flow's lock, once what was cut short is settled.

    Raises:
        StateError: nothing has been built, or the data isn't that of its revision, or what was erased is back.
        SuppressedError: a picture was erased on request since the arrival was read.
    """
    serving = champion_composition(ws)
    if serving is None:
        raise StateError("there is no model to teach; run: lethe build")
    case, ledger = Case(ws, arrival.request_id), Ledger(ws)
    if case.find("stored") is not None:
        return case
    refuse_suppressed(ws, ledger, arrival.samples)
    require_committed(ws, ws.settings().shard_ids)
    refuse_resurrected(ws)
    ledger.receive(arrival.request_id, "arrival", arrival.digest, b"", utc_now())
    before: dict[str, Json] = {"version": serving[0], "composition": serving[1].digest, "dvc_revision": data_revision(ws)}
    place: dict[str, Json] = {"owner_key": arrival.owner_key, "shard": arrival.shard, "stage": arrival.stage}
    counts: dict[str, Json] = {"samples": len(arrival.samples), "new_samples": count_new(ws, arrival)}
    case.finish("planned", {**before, **place, **counts}, status="planned")
    _record_stored(case, *store_arrival(ws, arrival))
    return case


def settle_arrivals(ws: Workspace) -> None:
    """Bring every arrival that was cut short while it was stored to one side or the other; call it inside the flow's lock.

    Raises:
        StateError: DVC or git fails.
    """
    for stored in Ledger(ws).requests(status="planned"):
        case = Case(ws, stored.request_id)
        planned = case.find("planned")
        if planned is not None and "owner_key" in planned:
            _settle(case, planned)


def compose_learned(case: Case, trained: TrainedShard, descriptions: Sequence[ShardDescription]) -> tuple[Composition, Composition]:
    """(what serves, the candidate with the taught shard); commits the new adapter to DVC first."""
    planned = case.finished("planned")
    commit_training(case.ws, [trained.shard], "Teach a shard new samples")
    before = load_composition(case.ws, read_served(planned).composition)
    described = next(description for description in descriptions if description.shard == trained.shard)
    candidate = replace_experts(case.ws.settings(), before, [trained.shard], [expert_of(trained, described)])
    save_composition(case.ws, candidate)
    return before, candidate


def decide_learned(
    case: Case,
    before: Composition,
    candidate: Composition,
    gate: GateResult,
    pictures: list[PictureRequest],
    trained: TrainedShard,
    steps_full_build: int,
) -> Served:
    """Sign, log and promote or ask, as after forgetting."""
    planned, stored = case.finished("planned"), case.finished("stored")
    steps = int(str(stored.get("steps", trained.steps)))  # an earlier release counted what the last attempt had to train
    work = Work(
        kind="learn",
        shards_hit=(trained.shard,),
        samples_removed=0,
        samples_added=int(str(stored["new_samples"])),
        steps_retrained=steps,
        steps_full_build=steps_full_build,
        stopped_version=None,
        earlier_records=(),
    )
    content: dict[str, Json] = {
        "arrival": {name: planned[name] for name in ("owner_key", "shard", "stage", "samples")},
        "dvc_revision_before": planned["dvc_revision"],
        "dvc_revision_after": stored["dvc_revision"],
        "checkpoints": {str(trained.shard): list(trained.chain)},
        "steps": steps,
    }
    judged = Judged(before=before, candidate=candidate, gate=gate, pictures=pictures)
    return decide(case, judged, work, read_served(planned), content)


def close_learned(case: Case) -> dict[str, Json]:
    """Keep the answer of `lethe learn`."""
    planned, decided, stored = case.finished("planned"), case.finished("decided"), Ledger(case.ws).request(case.request_id)
    assert stored is not None, "an open case is stored"
    if stored.answer is not None:
        return dict(stored.answer)
    is_promoted = decided["serving"] == decided["version"]
    answer: dict[str, Json] = {
        "request_id": case.request_id,
        "status": "completed" if is_promoted else "needs_review",
        "shard": planned["shard"],
        "stage": planned["stage"],
        "samples": planned["samples"],
        "model_version": decided["serving"],
        "candidate_version": decided["version"],
        "gate": decided["gate"],
        "audit_records": [str(case.ws.records / str(decided["record"]))],
        "mlflow_run_id": audit_run(case, "learn"),
        "total_seconds": (utc_now() - stored.received_at).total_seconds(),
    }
    close_run(case, "learn")
    Ledger(case.ws).set_status(case.request_id, "completed" if is_promoted else "needs_review", answer)
    return answer


def _settle(case: Case, planned: Mapping[str, Json]) -> None:
    shard, num_samples = int(str(planned["shard"])), int(str(planned["samples"]))
    if committed_last(case.ws, arrival_message(num_samples), parent=str(planned["dvc_revision"])):
        num_new = int(str(planned.get("new_samples", num_samples)))  # an earlier release didn't tell the new from the known
        _record_stored(case, num_new, commit_arrival(case.ws, shard, num_samples))
        return
    restore_committed(case.ws, [shard])
    case.finish("taken_back", {"shard": shard, "dvc_revision": data_revision(case.ws)}, status="received")


def _record_stored(case: Case, num_new: int, revision: str) -> None:
    """With the steps that this leaves to train, which a training that is cut short and gone on with couldn't tell any more."""
    steps = training_left(case.ws, int(str(case.finished("planned")["shard"])))[1]
    case.finish("stored", {"new_samples": num_new, "dvc_revision": revision, "steps": steps}, status="retraining")
