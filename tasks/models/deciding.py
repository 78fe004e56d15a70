"""Step 9: the signed decision on a candidate, shared by the forget and learn flows, and a person's decision afterwards.

The record is signed and logged before the alias moves. A verdict other than "pass" promotes nothing and asks for a review.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from cdm_core.composition.document import Composition, Expert
from cdm_core.digests import Json
from cdm_core.errors import StateError
from cdm_core.evaluation.quality_gate import GateResult
from tasks.clock import utc_now
from tasks.evidence.audit_log import AuditSummary, Verdict, end_run, open_run
from tasks.evidence.records import verify_all_records
from tasks.evidence.traces import NO_TRACES, Traces
from tasks.ledger.case import Case, Served, read_served
from tasks.ledger.store import Ledger, Status, StoredRequest
from tasks.models.compositions import replace_experts
from tasks.models.evaluation import PictureRequest
from tasks.models.release import (
    adapters_by_shard,
    champion_composition,
    data_artifacts,
    draw_grids,
    log_release,
    log_review,
    promote_version,
    register,
    replaced_adapters,
    sign_record,
    untouched_shards,
)
from tasks.training.shard_training import adapter_of_today

_REVIEW = ("decision", "reason", "serving_version", "reviewed_version", "reviewed_record", "promotion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a flow did before its decision, for the note that a reviewer reads."""

    kind: Literal["forget", "learn"]
    shards_hit: tuple[int, ...]
    samples_removed: int
    samples_added: int
    steps_retrained: int
    steps_full_build: int
    stopped_version: int | None
    earlier_records: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate, what it was compared with, the gate's verdict, and what else was looked at for traces, which no verdict rests on."""

    before: Composition
    candidate: Composition
    gate: GateResult
    pictures: list[PictureRequest]
    traces: Traces = NO_TRACES
    seconds: float | None = None
    """That the judging took, if it was measured."""


def decide(case: Case, judged: Judged, work: Work, serving: Served, content: Mapping[str, Json]) -> Served:
    """Register the candidate, sign and log the decision, promote on a pass; done once a case.

    Args:
        case: the request or arrival.
        judged: candidate and verdict.
        work: for the note.
        serving: the version that serves now, which a promotion replaces.
        content: what else the record says.
    """
    if done := case.find("decided"):
        return read_served(done)
    candidate, gate, step_key = judged.candidate, judged.gate, case.step_key("decide")
    run_id = audit_run(case, work.kind)
    version = register_for_decision(case, candidate, work.kind)
    untouched = untouched_shards(judged.before, candidate)
    is_pass = gate.verdict == "pass"
    predicate = {
        "decision": "promote" if is_pass else "needs_review",
        "gate": asdict(gate),
        "serving_version": serving.version,
        "adapters": adapters_by_shard(candidate),
        "adapters_replaced": replaced_adapters(judged.before, candidate),
        "untouched_shards": untouched,
        "affected_shards": list(work.shards_hit),
        "frechet_distance": {"before": gate.fd_before, "after": gate.fd_after},
        "promotion": {"version": version, "replaces": serving.version} if is_pass else None,
        "artifacts": data_artifacts(case.ws, candidate.shards),
        **judged.traces.fields,
        **content,
    }
    record = sign_record(case.ws, "decision", candidate, version=version, step_key=step_key, now=utc_now(), content=predicate)
    summary = summarise(case, work, gate, gate.verdict, version, untouched, [*work.earlier_records, record.name])
    sides = {"before": judged.before, "after": candidate}
    grids = draw_grids(case.ws, judged.pictures, sides, filed_under=candidate, blank=work.shards_hit) if judged.pictures else {}
    log_release(case.ws, run_id, summary, gate, grids, [record], judged.traces)
    if is_pass:
        promote_version(case.ws, Ledger(case.ws), version, expected=serving.version, request_id=case.request_id, now=utc_now())
    body: dict[str, Json] = {
        "version": version,
        "composition": candidate.digest,
        "serving": version if is_pass else serving.version,
        "gate": asdict(gate),
        "record": record.name,
        "run_id": run_id,
        "kind": work.kind,
        "evaluation_seconds": judged.seconds,
        "shards_hit": list(work.shards_hit),
        "experts": [asdict(expert) for expert in candidate.experts if expert.shard in work.shards_hit],
    }
    return read_served(case.finish("decided", body, status=None if is_pass else "needs_review"))


def register_for_decision(case: Case, candidate: Composition, kind: Literal["forget", "learn"]) -> int:
    """The version of the candidate that a case will decide on, registered when first asked for."""
    return register(case.ws, candidate, run_id=audit_run(case, kind), purpose=kind, step_key=case.step_key("decide"))


def review(case: Case, members: Sequence[StoredRequest], *, accept: bool, reason: str) -> None:
    """A person's decision on a case that waits in `needs_review`, and the answer to it and to a batch's `members`.

    The record comes first, and stands: called again after a crash this goes on from it, and takes no other decision.

    Raises:
        StateError: the case doesn't wait for one, was decided otherwise, or its candidate can't be promoted any more.
    """
    ledger = Ledger(case.ws)
    stored, decided, serving = ledger.request(case.request_id), case.find("decided"), champion_composition(case.ws)
    if stored is None:
        raise StateError(f"{case.request_id}: no such request")
    waiting = [each for each in (stored, *members) if each.status == "needs_review"]
    if not waiting or decided is None or serving is None:
        raise StateError(f"{case.request_id}: waits for no review; its status is {stored.status}")
    record, said = _sign_review(case, decided, serving, accept=accept, reason=reason)
    log_review(case.ws, str(decided["run_id"]), str(said["decision"]), read_served(decided).version, record)
    replaced = int(str(said["serving_version"]))
    version = int(str(said["promotion"]["version"])) if isinstance(said["promotion"], Mapping) else replaced
    if accept:
        promote_version(case.ws, ledger, version, expected=replaced, request_id=case.request_id, now=utc_now())
    is_rest_held = bool((case.find("closed") or {}).get("held_samples"))  # it is carried out when the hold ends
    status: Status = "held" if is_rest_held else "completed" if accept else "rejected"
    is_told = case.find("reviewed") is not None
    with ledger.together():
        if not is_told:
            ledger.append("reviewed", case.request_id, {"decision": said["decision"], "record": record.name}, utc_now())
        for each in waiting:
            changed: dict[str, Json] = {"request_id": each.request_id, "status": status, "model_version": version}
            changed["audit_records"] = [*_records_of(each.answer), str(record)]
            ledger.set_status(each.request_id, status, {**(each.answer or {}), **changed})


def find_review(case: Case) -> Mapping[str, Json] | None:
    """What a person's signed decision on a case says, if there is one."""
    step_key = case.step_key("review")
    records = verify_all_records(case.ws, Ledger(case.ws).verified_roots()).values()
    return next((record.predicate for record in records if record.predicate.get("step_key") == step_key), None)


def _sign_review(
    case: Case, decided: Mapping[str, Json], serving: tuple[int, Composition], *, accept: bool, reason: str
) -> tuple[Path, Mapping[str, Json]]:
    """The record of the decision and what it says; one that was signed before is found by its step key, whatever its reason."""
    decision, earlier = "accepted" if accept else "rejected", find_review(case)
    if earlier is not None and earlier["decision"] != decision:
        option = "--reject" if accept else "--accept"
        raise StateError(f"{case.request_id}: was {earlier['decision']}, which was cut short; finish that with: lethe review {option}")
    content, version, composition = {name: earlier[name] for name in _REVIEW} if earlier is not None else {}, *serving
    if not content:
        if accept:
            version, composition = _accepted(case, decided, serving[1])
        content = {
            "decision": decision,
            "reason": reason,
            "serving_version": serving[0],
            "reviewed_version": read_served(decided).version,
            "reviewed_record": decided["record"],
            "promotion": {"version": version, "replaces": serving[0]} if accept else None,
        }
    step_key = case.step_key("review")
    return sign_record(case.ws, "review", composition, version=version, step_key=step_key, now=utc_now(), content=content), content


def _accepted(case: Case, decided: Mapping[str, Json], serving: Composition) -> tuple[int, Composition]:
    """The candidate; if another version was promoted meanwhile, a new one, in which the accepted experts join what serves now.

    Raises:
        StateError: a hit shard's data has changed since, so that its expert isn't today's.
    """
    experts, hit = (
        TypeAdapter(list[Expert]).validate_python(decided["experts"]),
        TypeAdapter(list[int]).validate_python(decided["shards_hit"]),
    )
    for expert in experts:
        if expert.adapter != adapter_of_today(case.ws, expert.shard):
            raise StateError(f"{case.request_id}: shard {expert.shard} has changed since; reject what waits, then run: lethe build")
    candidate, version = replace_experts(case.ws.settings(), serving, hit, experts), read_served(decided).version
    if candidate.digest != read_served(decided).composition:
        run_id, purpose = str(decided["run_id"]), parse_purpose(decided)
        version = register(case.ws, candidate, run_id=run_id, purpose=purpose, step_key=case.step_key("review"))
    return version, candidate


def parse_purpose(decided: Mapping[str, Json]) -> Literal["forget", "learn"]:
    """Which flow decided."""
    return "learn" if decided["kind"] == "learn" else "forget"


def audit_run(case: Case, kind: Literal["forget", "learn"]) -> str:
    """The MLflow run of a case, made when first asked for."""
    return open_run(case.ws, name=f"{kind} {case.request_id}", step_key=case.step_key("run"), tags={"kind": kind})


def close_run(case: Case, kind: Literal["forget", "learn"]) -> None:
    """Mark a case's run as finished."""
    end_run(case.ws, audit_run(case, kind), "FINISHED")


def summarise(
    case: Case, work: Work, gate: GateResult, verdict: Verdict, version: int, untouched: Sequence[int], records: Sequence[str]
) -> AuditSummary:
    """The note's facts."""
    return AuditSummary(
        kind=work.kind,
        request_id=case.request_id,
        verdict=verdict,
        fd_before=gate.fd_before,
        fd_after=gate.fd_after,
        margin=gate.margin,
        shards_hit=work.shards_hit,
        shards_reused=untouched,
        samples_removed=work.samples_removed,
        samples_added=work.samples_added,
        steps_retrained=work.steps_retrained,
        steps_full_build=work.steps_full_build,
        stopped_version=work.stopped_version,
        model_version=version,
        record_names=records,
    )


def _records_of(answer: Mapping[str, Json] | None) -> list[str]:
    records = (answer or {}).get("audit_records", [])
    assert isinstance(records, list), "we wrote it"
    return [str(record) for record in records]
