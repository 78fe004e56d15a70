"""Batches: requests that wait together are carried out as one case.

1. What else lies in the inbox is taken in (`receive_waiting`). Inside the flow's lock, what waits is resolved. What names nothing here is
   refused; what touches a hold goes alone.
2. The rest becomes a batch, a case of its own in the ledger. Its plan is over the union of what is named, so a shard that several requests
   hit is stopped, retrained, evaluated and purged once.
3. Before the batch is closed each request gets its own closing record and its own answer, so that each has its own receipt.

A request's `batched` event names its batch. While the batch is under way its requests keep the status that they had: the batch alone is
resumed after a crash.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cdm_core.digests import Json, canonical_json, sha256_digest
from cdm_core.errors import InvalidInputError, RequestRefusedError, StateError
from tasks.clock import utc_now
from tasks.data.data_versions import require_committed
from tasks.deletion.forgetting import find_request, record_plan
from tasks.deletion.suppression import refuse_resurrected
from tasks.evidence.closing import describe_deletion, describe_time, measured
from tasks.ledger.case import Case, read_served
from tasks.ledger.store import Ledger, Status, StoredRequest
from tasks.models.compositions import load_composition
from tasks.models.deciding import audit_run
from tasks.models.release import champion_composition, log_record, sign_records
from tasks.plans.duplicates import load_choice
from tasks.plans.kept_files import erase_kept
from tasks.plans.planning import ForgetPlan, Resolved, load_plan, plan_deletion, resolve_request
from tasks.plans.refusals import refuse_request
from tasks.requests.identities import keep_outcomes
from tasks.requests.inbox import scan_inbox
from tasks.requests.intake import read_format, receive_file
from tasks.requests.notifying import describe_notifications
from tasks.requests.request_images import images_folder
from tasks.workspace import Workspace

_PREFIX = "@batch-"  # no request's id begins so


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A request of a batch, and what it names."""

    stored: StoredRequest
    resolved: Resolved


def is_batch(request_id: str) -> bool:
    """Whether a case is a batch."""
    return request_id.startswith(_PREFIX)


def case_under_way(ws: Workspace, request_id: str) -> str:
    """The batch that a request was put into, once that was begun; else the request itself."""
    batch = batch_of(ws, request_id)
    return request_id if batch is None or _status(Ledger(ws), batch) == "received" else batch


def coalesce(ws: Workspace, request_id: str, now: datetime, *, among: Collection[str] | None = None) -> str:
    """The case by which a request is to be carried out: its batch, a new one with all that waits, or the request by itself.

    Call it inside the flow's lock. With `among`, only these requests are put together: those of one plan, and no other.
    """
    ledger = Ledger(ws)
    if (case := case_under_way(ws, request_id)) != request_id:
        return case
    members = _vet(ws, ledger, request_id, now, among)
    if len(members) < 2 or request_id not in {member.stored.request_id for member in members}:
        return request_id
    digests: dict[str, Json] = {member.stored.request_id: member.stored.digest for member in members}
    content = canonical_json({"requests": digests})
    digest = sha256_digest(content)
    batch = f"{_PREFIX}{digest[:16]}"
    fresh = [name for name in digests if batch_of(ws, name) != batch]
    with ledger.together():
        ledger.receive(batch, "batch", digest, content, now)
        for name in fresh:
            ledger.append("batched", name, {"batch": batch}, now)
    return batch


def receive_waiting(ws: Workspace, item: str, now: datetime) -> None:
    """Take in what else waits in the inbox, so that all of it is carried out as one.

    What is refused is left to its own run, which records and reports the refusal: here it would be recorded a second time.
    """
    for other in scan_inbox(ws, now):
        if other.kind == "request" and other.name != item:
            with suppress(RequestRefusedError, InvalidInputError):
                receive_file(ws, Ledger(ws), other.path, now, records_refusal=False)


def batch_of(ws: Workspace, request_id: str) -> str | None:
    """The batch that a request was put into last."""
    event = Ledger(ws).last("batched", request_id)
    return None if event is None else str(event.body["batch"])


def members_of(ws: Workspace, batch: str) -> list[StoredRequest]:
    """The requests of a batch that the ledger still knows."""
    return [stored for stored in Ledger(ws).requests() if batch_of(ws, stored.request_id) == batch]


def plan_batch(case: Case) -> ForgetPlan:
    """Plan the union of what the batch's requests name, or read the plan again; the clock of the stop starts here.

    Raises:
        StateError: nothing has been built, the data isn't that of its revision, what was erased is back, or a hold came in between.
    """
    if case.find("planned") and (kept := load_plan(case.ws, case.request_id)):
        return kept
    stored, serving = Ledger(case.ws).request(case.request_id), champion_composition(case.ws)
    if stored is None or serving is None:
        raise StateError(f"{case.request_id}: there is no model to forget from; run: lethe build")
    require_committed(case.ws, case.ws.settings().shard_ids)
    refuse_resurrected(case.ws)
    members = [_resolve(case.ws, member) for member in members_of(case.ws, case.request_id)]
    if held := [member.stored.request_id for member in members if not member.resolved.held.empty]:
        raise StateError(f"request {held[0]}: a hold came in between; run the same command again")  # it then waits or goes by itself
    plan = plan_deletion(
        case.ws,
        request_id=case.request_id,
        request_digest=stored.digest,
        issuer_key="",
        regulation="",
        resolved=[member.resolved for member in members],
    )
    return record_plan(case, plan, serving, {"requests": [_describe(case.ws, member) for member in members]})


def close_members(case: Case) -> None:
    """Sign each request's closing record, show it in the run, keep its answer and erase its bytes; then the batch can be closed."""
    planned, stopped, decided, purged = (case.finished(step) for step in ("planned", "stopped", "decided", "purged"))
    candidate = read_served(decided)
    status: Status = "completed" if decided["serving"] == decided["version"] else "needs_review"
    names: list[Json] = [stopped["record"], decided["record"]]
    whole = describe_deletion(case, candidate)
    of_batch: Json = {"name": case.request_id, "records": names, "said_of_the_whole_batch": sorted(whole)}
    waiting = [(member, request) for member, request in _members(case.ws, planned["requests"]) if _stored(member).answer is None]
    contents = {
        member.step_key("close"): {**whole, "batch": of_batch, **_describe_member(member, request, status)} for member, request in waiting
    }
    composition = load_composition(case.ws, candidate.composition)
    records = sign_records(case.ws, "closing", composition, version=candidate.version, now=utc_now(), contents=contents)
    common: dict[str, Json] = {
        "stop_seconds": stopped["seconds"],
        **measured(case),
        "stopped_version": stopped["version"],
        "model_version": decided["serving"],
        "candidate_version": candidate.version,
        "gate": decided["gate"],
        "mlflow_run_id": audit_run(case, "forget"),
        "purged": purged["counts"],
        "batch": case.request_id,
    }
    answers = {}
    for (member, _), record in zip(waiting, records, strict=True):
        log_record(case.ws, str(common["mlflow_run_id"]), record)
        answers[member.request_id] = _answer_member(member, record, status, names, common)
    ledger = Ledger(case.ws)
    with ledger.together():
        for (member, _), record in zip(waiting, records, strict=True):
            ledger.append("closed", member.request_id, {"record": record.name, "batch": case.request_id}, utc_now())
            ledger.set_status(member.request_id, status, answers[member.request_id])
            ledger.forget_content(member.request_id)
    for member, _ in waiting:
        erase_kept(case.ws, member.request_id)


def requests_of(case: Case) -> list[str]:
    """The requests that a case carries out: its own, or a batch's."""
    return [stored.request_id for stored in members_of(case.ws, case.request_id)] if is_batch(case.request_id) else [case.request_id]


def _vet(ws: Workspace, ledger: Ledger, asked: str, now: datetime, among: Collection[str] | None) -> list[_Member]:
    """What can be carried out together; of what can't, all but the request that was asked for is refused, if it names nothing here.

    One whose choice of duplicates doesn't hold any more waits for another choice, and holds nobody up.
    """
    members = []
    for stored in ledger.requests():
        is_waiting = stored.status == "received" and stored.content is not None and ledger.last("received", stored.request_id) is not None
        if (
            not is_waiting
            or ledger.last("requeued", stored.request_id) is not None
            or (among is not None and stored.request_id not in among)
        ):
            continue
        try:
            member = _resolve(ws, stored)
        except RequestRefusedError as error:
            if stored.request_id != asked:
                refuse_request(ws, stored.request_id, error, now)
            continue
        except InvalidInputError:
            if stored.request_id == asked:
                raise
            continue
        if member.resolved.held.empty:
            members.append(member)
    return members


def _resolve(ws: Workspace, stored: StoredRequest) -> _Member:
    received = Ledger(ws).last("received", stored.request_id)
    assert received is not None, "a waiting request was received"
    assert stored.content is not None, "the bytes of an open request are kept"
    request = find_request(ws, stored.content, stored.request_id, received.body)
    keep_outcomes(ws, request, utc_now())
    folder, choice = images_folder(ws, stored.request_id), load_choice(ws, stored.request_id)
    return _Member(stored=stored, resolved=resolve_request(ws, request, folder, choice, was_kept=True))


def _describe(ws: Workspace, member: _Member) -> dict[str, Json]:
    """For the ledger and the records: which request, and how much of the batch is its."""
    received = Ledger(ws).last("received", member.stored.request_id)
    assert received is not None, "a member was received"
    return {
        "request_id": member.stored.request_id,
        "request_digest": member.stored.digest,
        "request_format": read_format(received.body),
        "issuer_key": received.body["issuer_key"],
        "regulation": received.body["regulation"],
        "samples": len(member.resolved.hits),
        "shards": sorted({int(shard) for shard in member.resolved.hits["shard"]}),
    }


def _members(ws: Workspace, described: Json) -> Iterator[tuple[Case, Mapping[str, Json]]]:
    """The cases of a batch's requests, and what the plan's event says of each."""
    assert isinstance(described, Sequence), "we wrote it"
    for request in described:
        assert isinstance(request, Mapping), "we wrote it"
        yield Case(ws, str(request["request_id"])), request


def _describe_member(case: Case, request: Mapping[str, Json], status: Status) -> dict[str, Json]:
    """What a member's closing record says of it alone."""
    told = describe_notifications(case.ws, case.request_id, status, utc_now(), num_erased=int(str(request["samples"])), is_forgotten=True)
    return {
        "decision": "closed",
        "status": status,
        "request_digest": _stored(case).digest,
        "request_format": request["request_format"],
        "issuer_key": request["issuer_key"],
        "regulation": request["regulation"],
        "affected_shards": request["shards"],
        "samples": request["samples"],
        **describe_time(case),
        "notifications": told,
        "absence": "every store was listed again after the erasure of the whole batch and held none of the erased objects",
    }


def _answer_member(case: Case, record: Path, status: Status, earlier: Sequence[Json], common: Mapping[str, Json]) -> Mapping[str, Json]:
    """A member's answer: what is common to the batch, and its own."""
    return {
        "request_id": case.request_id,
        "status": status,
        "total_seconds": (utc_now() - _stored(case).received_at).total_seconds(),
        **common,
        "audit_records": [str(case.ws.records / str(name)) for name in (*earlier, record.name)],
    }


def _stored(case: Case) -> StoredRequest:
    stored = Ledger(case.ws).request(case.request_id)
    assert stored is not None, "a member is stored"
    return stored


def _status(ledger: Ledger, request_id: str) -> str | None:
    stored = ledger.request(request_id)
    return None if stored is None else stored.status
