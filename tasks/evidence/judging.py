"""Judging a workspace's records and ledger by its key registry, at the times that the ledger recorded.

The ledger knows of each request when its signature was accepted, of each plan who had approved it and when, and of each record when it was
written. Its times count once the ledger itself was verified. Where the events of a request were unlinked, its record's time stands for
them, which is later. What the registry says today is what counts: a key that turned out to have
been stolen in spring is revoked since then, and what it signed in summer doesn't count any more, though it was accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.evidence.key_registry import ISSUER_ROLE, KeyRegistry
from cdm_core.evidence.key_validity import Act, Party, TrustedTime, Validity, judge_acts, require_counted
from cdm_core.evidence.trusted_keys import TrustedKeys
from tasks.clock import utc_now
from tasks.evidence.records import RECORD_EVENT, VerifiedRecord, verify_all_records
from tasks.keys import load_registry
from tasks.ledger.store import Event, Ledger
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """By which time a record was judged, and how many things of each kind that others had signed."""

    time: TrustedTime
    judged: Mapping[str, int]


def judge_record(ws: Workspace | None, record: VerifiedRecord, trusted: TrustedKeys | None) -> Judgement:
    """Judge a verified record's own signature, and those of the requests and approvals that it names.

    Args:
        ws: whose ledger has the times; None or one without a ledger means that there is no trusted time.
        record: it.
        trusted: an auditor's key list, which is believed before the workspace's registry.

    Raises:
        VerificationError: the ledger doesn't hold, or a key didn't count.
    """
    ledger = _open_ledger(ws)
    registry = None if ws is None or ledger is None else current_registry(ws)
    time = _record_time(ledger, record.digest)
    require_counted(record.keyid, _validity(record.keyid, registry, trusted), time)
    parties = _parties(registry, trusted)
    predicate = record.statement["predicate"]
    assert isinstance(predicate, Mapping), "verified with the statement"
    return Judgement(time=time, judged={} if parties is None else judge_acts(_named_acts(ledger, predicate, time), parties))


def judge_ledger(ws: Workspace, ledger: Ledger) -> dict[str, int]:
    """Judge everything signed that a verified ledger tells of; returns how much of each kind there is.

    Raises:
        StateError: the registry is damaged, or older than the ledger knows.
        VerificationError: the registry isn't the one that was recorded, the records don't hold, or a key didn't count.
    """
    registry = current_registry(ws)
    changed = ledger.last("keys_changed", None)
    if changed is not None and changed.body["revision"] == registry.revision:
        path = ws.keys / "registry.json"
        if sha256_digest(path.read_bytes()) != changed.body["registry"]:
            raise VerificationError(f"{path}: revision {registry.revision} isn't the registry that the ledger knows as such")
    for digest, statement in verify_all_records(ws).items():
        try:
            require_counted(statement.keyid, _validity(statement.keyid, registry, None), _record_time(ledger, digest))
        except VerificationError as error:
            raise VerificationError(f"{ws.records}: record {digest[:12]}: {error}") from error
    requests = [act for event in ledger.events(kind="received") for act in _request_acts(event)]
    approvals = [_approval_act(event) for event in ledger.events(kind="approved")]
    try:
        return {"request": 0, "approval": 0} | judge_acts([*requests, *approvals], registry.parties)
    except VerificationError as error:
        raise VerificationError(f"{ledger.path}: {error}") from error


def current_registry(ws: Workspace) -> KeyRegistry:
    """The key registry, which must not be older than the ledger knows.

    Raises:
        StateError: it's damaged, or an older one was put back.
    """
    registry, changed = load_registry(ws), Ledger(ws).last("keys_changed", None)
    if changed is not None and registry.revision < int(str(changed.body["revision"])):
        raise StateError(f"{ws.keys / 'registry.json'}: revision {registry.revision}, the ledger knows revision {changed.body['revision']}")
    return registry


def find_request_acts(ledger: Ledger, request_id: str) -> list[Act]:
    """Who signed a request, and when the ledger recorded it; empty for what nobody signed, such as an arrival."""
    event = ledger.last("received", request_id)
    return [] if event is None else _request_acts(event)


def find_approvals(ledger: Ledger, request_id: str) -> list[Act]:
    """The approvals by which a request's plan was accepted."""
    event = ledger.last("plan_accepted", request_id)
    return [] if event is None else _approver_acts(event.body.get("approvers"), None)


def _request_acts(event: Event) -> list[Act]:
    """The issuer's, and that of an identity token's 1st party."""
    keyids = [keyid for keyid in (event.body.get("issuer_key"), event.body.get("first_party_key")) if keyid]
    time = TrustedTime(at=event.at, source="ledger")
    return [Act(what="request", keyid=str(keyid), role=ISSUER_ROLE, time=time) for keyid in keyids]


def _approval_act(event: Event) -> Act:
    roles = event.body["roles"]
    assert isinstance(roles, Sequence), "we wrote it"
    return Act(what="approval", keyid=str(event.body["keyid"]), role=str(roles[0]), time=TrustedTime(at=event.at, source="ledger"))


def _named_acts(ledger: Ledger | None, predicate: Mapping[str, Json], written: TrustedTime) -> list[Act]:
    """What a record, `written` then, names: the key of its request, or those of its batch's, and its plan's approvers."""
    requests = predicate.get("requests")
    named = [each for each in requests if isinstance(each, Mapping)] if isinstance(requests, Sequence) else [predicate]
    received = [] if ledger is None else ledger.events(kind="received")
    acts: list[Act] = []
    for request in named:
        if keyid := request.get("issuer_key"):
            events = [event for event in received if event.body.get("issuer_key") == keyid and _is_of(event, request)]
            stated = Act(what="request", keyid=str(keyid), role=ISSUER_ROLE, time=written)
            acts += _request_acts(events[0]) if events else [stated]
    approvers = predicate.get("approvers")
    accepted = [] if ledger is None else [event.body.get("approvers") for event in ledger.events(kind="plan_accepted")]
    return acts + _approver_acts(approvers, None if approvers in accepted else written)


def _is_of(event: Event, request: Mapping[str, Json]) -> bool:
    return event.body.get("digest") == request.get("request_digest")


def _approver_acts(approvers: Json, time: TrustedTime | None) -> list[Act]:
    """Approvals at a time, or at those that they state, which the ledger then must have recorded."""
    acts = []
    for approver in approvers if isinstance(approvers, Sequence) else ():
        match approver:
            case {"keyid": str(keyid), "role": str(role), "at": str(at)}:
                judged_at = time or TrustedTime(at=datetime.fromisoformat(at), source="ledger")
                acts.append(Act(what="approval", keyid=keyid, role=role, time=judged_at))
            case _:
                raise VerificationError("approvers: must be a list of keys, roles and times")
    return acts


def _open_ledger(ws: Workspace | None) -> Ledger | None:
    """The workspace's ledger, once it holds."""
    if ws is None or not (ws.ledger / "ledger.sqlite").is_file():
        return None
    ledger = Ledger(ws)
    ledger.verify()
    return ledger


def _record_time(ledger: Ledger | None, digest: Digest) -> TrustedTime:
    events = [] if ledger is None else ledger.events(kind=RECORD_EVENT)
    at = next((event.at for event in events if event.body["digest"] == digest), None)
    return TrustedTime(at=utc_now(), source="none") if at is None else TrustedTime(at=at, source="ledger")


def _validity(keyid: str, registry: KeyRegistry | None, trusted: TrustedKeys | None) -> Validity:
    if trusted is not None and keyid in trusted.validity:
        return trusted.validity[keyid]
    entry = None if registry is None else registry.find(keyid)
    return Validity() if entry is None else entry.validity


def _parties(registry: KeyRegistry | None, trusted: TrustedKeys | None) -> Mapping[str, Party] | None:
    if trusted is not None and trusted.parties is not None:
        return trusted.parties
    return None if registry is None else registry.parties
