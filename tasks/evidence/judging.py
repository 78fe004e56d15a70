"""Judging a workspace's records and ledger by its key registry, at the times that the ledger recorded.

The ledger knows of each request when its signature was accepted, of each plan who had approved it and when, and of each record when it was
written. Its times count once the ledger itself was verified, and only those for which a checkpoint stands that a trusted key signed: anyone
can make a ledger that nobody signed, and lay it beside a record. Where the events of a request were unlinked, its record's time stands for
them, which is later. What the registry says today is what counts: a key that turned out to have
been stolen in spring is revoked since then, and what it signed in summer doesn't count any more, though it was accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key  # type: ignore[attr-defined]  # re-exported without __all__

from cdm_core.digests import Digest, Json, sha256_digest
from cdm_core.errors import StateError, VerificationError
from cdm_core.evidence.key_registry import ISSUER_ROLE, KeyRegistry
from cdm_core.evidence.key_validity import Act, Party, TrustedTime, Validity, judge_acts, require_counted
from cdm_core.evidence.trusted_keys import TrustedKeys
from tasks.clock import utc_now
from tasks.evidence.records import RECORD_EVENT, VerifiedRecord, check_tree, verify_all_records
from tasks.keys import load_record_keys, load_registry
from tasks.ledger.store import Event, Ledger
from tasks.workspace import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """By which time a record was judged, and how many things of each kind that others had signed."""

    time: TrustedTime
    judged: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """A verified ledger, and how many of its events, from the first on, have times that count."""

    ledger: Ledger
    signed_size: int

    def events(self, kind: str) -> list[Event]:
        """Those of a kind whose times count."""
        return [event for event in self.ledger.events(kind=kind) if event.seq <= self.signed_size]

    def of(self, event: Event) -> TrustedTime:
        """The event's time, or that of checking."""
        return _ledger_time(event) if event.seq <= self.signed_size else TrustedTime(at=utc_now(), source="none")


def judge_record(ws: Workspace | None, record: VerifiedRecord, trusted: TrustedKeys | None) -> Judgement:
    """Judge a verified record's own signature, and those of the requests and approvals that it names.

    Args:
        ws: whose ledger has the times; None or one without a ledger means that there is no trusted time.
        record: it.
        trusted: an auditor's key list, which is believed before the workspace's registry.

    Raises:
        VerificationError: the ledger doesn't hold, or a key didn't count.
    """
    predicate = record.statement["predicate"]
    assert isinstance(predicate, Mapping), "verified with the statement"
    times = _open_times(ws, predicate, None if trusted is None else trusted.keys)
    registry = None if ws is None or times is None else current_registry(ws)
    time = _record_time(times, record.digest)
    require_counted(record.keyid, _validity(record.keyid, registry, trusted), time)
    parties = _parties(registry, trusted)
    return Judgement(time=time, judged={} if parties is None else judge_acts(_named_acts(times, predicate, time), parties))


def judge_ledger(ws: Workspace, ledger: Ledger, trusted: TrustedKeys | None = None) -> dict[str, int]:
    """Verify a ledger and its records, and judge everything signed that they tell of; returns how much of each kind there is.

    Args:
        ws: whose it is.
        ledger: it.
        trusted: an auditor's key list, which is believed before the workspace's keys and registry.

    Raises:
        StateError: the registry is damaged, or older than the ledger knows.
        VerificationError: ledger or records don't hold, nothing that a trusted key signed stands for the ledger, the registry isn't the one
            that was recorded, or a key didn't count.
    """
    roots = ledger.verified_roots()
    times = _Times(ledger=ledger, signed_size=len(roots) - 1 if trusted is None else ledger.count_signed(trusted.keys))
    if trusted is not None and times.signed_size == 0 and len(roots) > 1:
        raise VerificationError(f"{ledger.path}: no checkpoint that a trusted key signed stands for it")
    registry = current_registry(ws)
    _check_registry(ws, ledger, registry)
    for digest, statement in verify_all_records(ws, roots, None if trusted is None else trusted.keys).items():
        try:
            require_counted(statement.keyid, _validity(statement.keyid, registry, trusted), _record_time(times, digest))
        except VerificationError as error:
            raise VerificationError(f"{ws.records}: record {digest[:12]}: {error}") from error
    parties = _parties(registry, trusted)
    assert parties is not None, "the registry has them"
    try:
        requests = [act for event in ledger.events(kind="received") for act in _request_acts(event, times.of(event))]
        approvals = [_approval_act(event, times.of(event)) for event in ledger.events(kind="approved")]
        return {"request": 0, "approval": 0} | judge_acts([*requests, *approvals], parties)
    except VerificationError as error:
        raise VerificationError(f"{ledger.path}: {error}") from error


def _check_registry(ws: Workspace, ledger: Ledger, registry: KeyRegistry) -> None:
    changed = ledger.last("keys_changed", None)
    if changed is not None and changed.body.get("revision") == registry.revision:
        path = ws.keys / "registry.json"
        if sha256_digest(path.read_bytes()) != changed.body.get("registry"):
            raise VerificationError(f"{path}: revision {registry.revision} isn't the registry that the ledger knows as such")


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
    return [] if event is None else _request_acts(event, _ledger_time(event))


def find_approvals(ledger: Ledger, request_id: str) -> list[Act]:
    """The approvals by which a request's plan was accepted."""
    event = ledger.last("plan_accepted", request_id)
    return [] if event is None else _approver_acts(event.body.get("approvers"), None)


def _request_acts(event: Event, time: TrustedTime) -> list[Act]:
    """The issuer's, and that of an identity token's 1st party."""
    keyids = [keyid for keyid in (event.body.get("issuer_key"), event.body.get("first_party_key")) if keyid]
    return [Act(what="request", keyid=str(keyid), role=ISSUER_ROLE, time=time) for keyid in keyids]


def _approval_act(event: Event, time: TrustedTime) -> Act:
    match event.body:
        case {"keyid": str(keyid), "roles": [str(role), *_]}:
            return Act(what="approval", keyid=keyid, role=role, time=time)
        case _:
            raise VerificationError(f"event {event.seq}: must name an approver's key and roles")


def _named_acts(times: _Times | None, predicate: Mapping[str, Json], written: TrustedTime) -> list[Act]:
    """What a record, `written` then, names: the key of its request, or those of its batch's, and its plan's approvers."""
    requests = predicate.get("requests")
    named = [each for each in requests if isinstance(each, Mapping)] if isinstance(requests, Sequence) else [predicate]
    received = [] if times is None else times.events("received")
    acts: list[Act] = []
    for request in named:
        if keyid := request.get("issuer_key"):
            events = [event for event in received if event.body.get("issuer_key") == keyid and _is_of(event, request)]
            stated = Act(what="request", keyid=str(keyid), role=ISSUER_ROLE, time=written)
            acts += _request_acts(events[0], _ledger_time(events[0])) if events else [stated]
    approvers = predicate.get("approvers")
    accepted = [] if times is None else [event.body.get("approvers") for event in times.events("plan_accepted")]
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


def _open_times(ws: Workspace | None, predicate: Mapping[str, Json], keys: Sequence[Key] | None) -> _Times | None:
    """The workspace's ledger, once it holds and continues the tree that a record names; None as the keys means the workspace's own."""
    if ws is None or not (ws.ledger / "ledger.sqlite").is_file():
        return None
    ledger = Ledger(ws)
    check_tree(predicate, ledger.verified_roots())
    return _Times(ledger=ledger, signed_size=ledger.count_signed(load_record_keys(ws.keys) if keys is None else keys))


def _record_time(times: _Times | None, digest: Digest) -> TrustedTime:
    events = [] if times is None else times.events(RECORD_EVENT)
    found = next((event for event in events if event.body.get("digest") == digest), None)
    return TrustedTime(at=utc_now(), source="none") if found is None else _ledger_time(found)


def _ledger_time(event: Event) -> TrustedTime:
    return TrustedTime(at=event.at, source="ledger")


def _validity(keyid: str, registry: KeyRegistry | None, trusted: TrustedKeys | None) -> Validity:
    if trusted is not None and keyid in trusted.validity:
        return trusted.validity[keyid]
    entry = None if registry is None else registry.find(keyid)
    return Validity() if entry is None else entry.validity


def _parties(registry: KeyRegistry | None, trusted: TrustedKeys | None) -> Mapping[str, Party] | None:
    if trusted is not None and trusted.parties is not None:
        return trusted.parties
    return None if registry is None else registry.parties
