"""When a stored request is due, read from the ledger: its receipt, its regulation, and an extension if one was given."""

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cdm_core.digests import Json
from cdm_core.errors import InvalidInputError, StateError
from cdm_core.intake.clocks import Terms, check_extension, compute_due
from cdm_core.intake.requests import Regulation
from tasks.ledger.store import Ledger, StoredRequest
from tasks.workspace import Workspace

_CLOSED = ("completed", "refused", "rejected", "needs_review")


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What the status of a request says about time; an arrival is never due."""

    due_at: datetime | None
    overdue: bool
    extended: bool
    is_closed: bool


def find_due(ws: Workspace, ledger: Ledger, stored: StoredRequest, now: datetime) -> Due:
    """When a request is or was due; one that was answered is never overdue."""
    regulation = _find_regulation(ledger, stored)
    if regulation is None:
        return Due(due_at=None, overdue=False, extended=False, is_closed=True)
    terms, zone = load_terms(ws)
    extended = ledger.last("extended", stored.request_id) is not None
    due_at = compute_due(regulation, stored.received_at, terms=terms, zone=zone, extended=extended)
    is_closed = stored.status in _CLOSED
    return Due(due_at=due_at, overdue=not is_closed and now >= due_at, extended=extended, is_closed=is_closed)


def describe_clock(ws: Workspace, request_id: str, now: datetime) -> dict[str, Json]:
    """What a record says of time: `clock`, and `extension` if there was one."""
    ledger = Ledger(ws)
    stored, extension = ledger.request(request_id), ledger.last("extended", request_id)
    assert stored is not None, "an open case is stored"
    due = find_due(ws, ledger, stored, now)
    clock: dict[str, Json] = {
        "received_at": stored.received_at.isoformat(),
        "due_at": due.due_at.isoformat() if due.due_at else None,
        "in_time": due.due_at is None or now < due.due_at,
    }
    return {"clock": clock, "extension": None if extension is None else {**extension.body, "at": extension.at.isoformat()}}


def extend_request(ws: Workspace, request_id: str, reason: str, now: datetime) -> dict[str, Json]:
    """Extend a request's period, once, and record why.

    Raises:
        InvalidInputError: there is no such request, no reason, no extension, or the first period is over.
        StateError: the request was extended or answered before.
    """
    ledger = Ledger(ws)
    stored = ledger.request(request_id)
    regulation = _find_regulation(ledger, stored) if stored else None
    if stored is None or regulation is None:
        raise InvalidInputError(f"{request_id}: no such request")
    if not reason.strip():
        raise InvalidInputError("reason: must not be empty")
    if stored.status in _CLOSED:
        raise StateError(f"{request_id}: was answered; its status is {stored.status}")
    if ledger.last("extended", request_id) is not None:
        raise StateError(f"{request_id}: was extended before; a period is extended once")
    terms, zone = load_terms(ws)
    due_at = check_extension(regulation, stored.received_at, now, terms=terms, zone=zone).isoformat()
    ledger.append("extended", request_id, {"due_at": due_at, "reason": reason}, now)
    return {"request_id": request_id, "due_at": due_at, "extended": True, "reason": reason}


def load_terms(ws: Workspace) -> tuple[Terms, ZoneInfo]:
    """The terms of `params.yaml`, and the zone of its calendar days.

    Raises:
        InvalidInputError: no such zone.
    """
    terms = ws.settings().terms
    try:
        zone = ZoneInfo(terms.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInputError(f"{ws.root / 'params.yaml'}: terms.time_zone: no such time zone") from error
    return Terms(**terms.model_dump(exclude={"time_zone"})), zone


def _find_regulation(ledger: Ledger, stored: StoredRequest) -> Regulation | None:
    received = ledger.last("received", stored.request_id)
    regulation = received.body.get("regulation") if received else None
    return regulation if regulation in ("gdpr", "ccpa", "contract", "voluntary") else None
