"""Where a request stands, read from the ledger for an answer in its sender's words.

The time by which it's expected is the policy's clock, with the terms of `params.yaml` and an extension if one was given. A closed request's
issuer was forgotten beside its bytes, but the registry still knows whose key it is that the ledger names.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from cdm_core.digests import Json
from cdm_core.errors import InvalidInputError
from cdm_core.intake.case_status import CaseStatus, HeldUntil
from cdm_core.intake.detection import Format
from tasks.keys import load_registry
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger, StoredRequest
from tasks.requests.due import find_due
from tasks.requests.identities import load_outcomes
from tasks.requests.intake import read_format
from tasks.workspace import Workspace

_MADE_HERE = re.compile(r"\A(drp|drop|fides)-[0-9a-f]{24,32}(-[0-9]+)?\Z")
"""Ids of requests whose senders gave none."""


def read_case(ws: Workspace, request_id: str, form: str, now: datetime) -> CaseStatus:
    """The one request of that form that came under an id.

    Raises:
        InvalidInputError: there is none, or there are several.
    """
    ledger = Ledger(ws)
    found = [(stored, _form_of(ledger, stored.request_id)) for stored in ledger.requests_named(request_id)]
    if not found:
        raise InvalidInputError(f"{request_id}: no such request")
    matching = [stored for stored, its_form in found if its_form == form]
    if not matching:
        raise InvalidInputError(f"{request_id}: came as {found[0][1]}, so there is no answer as {form}")
    if len(matching) > 1:
        raise InvalidInputError(f"{request_id}: came from several issuers; say which: {', '.join(each.request_id for each in matching)}")
    return case_of(ws, matching[0], now)


def case_of(ws: Workspace, stored: StoredRequest, now: datetime) -> CaseStatus:
    """Where a stored request of a sender's form stands."""
    ledger, answer, sent_id = Ledger(ws), stored.answer or {}, stored.request_id.partition("@")[0]
    extended = ledger.last("extended", stored.request_id)
    due_at = find_due(ws, ledger, stored, now).due_at
    assert due_at is not None, "a request that came in a sender's form was received under some regulation"
    return CaseStatus(
        request_id=None if _MADE_HERE.match(sent_id) else sent_id,
        ledger_id=stored.request_id,
        issuer=_find_issuer(ws, ledger, stored),
        status=stored.status,
        reason=None if answer.get("reason") is None else str(answer["reason"]),
        received_at=stored.received_at,
        expected_by=due_at,
        content=stored.content,
        outcomes=load_outcomes(ws, stored.request_id),
        is_closed=_is_closed(ws, ledger, stored),
        num_erased=_count_erased(ledger, stored.request_id),
        holds=_read_holds(answer.get("holds")),
        extension=None if extended is None else str(extended.body["reason"]),
    )


def _is_closed(ws: Workspace, ledger: Ledger, stored: StoredRequest) -> bool:
    """In its present round; what is held may have been put back in the queue and found held again, with nothing left to erase."""
    if stored.status == "held":
        return ledger.last("closed", stored.request_id) is not None
    return Case(ws, stored.request_id).find("closed") is not None


def _form_of(ledger: Ledger, request_id: str) -> Format:
    event = ledger.last("received", request_id)
    return "own" if event is None else read_format(event.body)


def _find_issuer(ws: Workspace, ledger: Ledger, stored: StoredRequest) -> str | None:
    received = ledger.last("received", stored.request_id)
    entry = None if received is None else load_registry(ws).find(str(received.body.get("issuer_key")))
    return stored.issuer or (None if entry is None else entry.name)


def _count_erased(ledger: Ledger, request_id: str) -> int | None:
    """Of all rounds in which it was carried out; None before the first was closed."""
    closed = ledger.events(request_id=request_id, kind="closed")
    if not closed:
        return None
    total = 0
    for event in closed:
        case_id = str(event.body.get("batch", request_id))
        planned = [each for each in ledger.events(request_id=case_id, kind="planned") if each.seq < event.seq]
        total += _count_planned(planned[-1].body, request_id) if planned else 0
    return total


def _count_planned(planned: Mapping[str, Json], request_id: str) -> int:
    """Of a batch's plan, the request's own part."""
    requests = planned.get("requests")
    for request in requests if isinstance(requests, Sequence) else ():
        if isinstance(request, Mapping) and request["request_id"] == request_id:
            return int(str(request["samples"]))
    return int(str(planned["samples"]))


def _read_holds(holds: Json) -> list[HeldUntil]:
    return [
        HeldUntil(ground=str(hold["ground"]), until=datetime.fromisoformat(str(hold["until"])))
        for hold in (holds if isinstance(holds, Sequence) else ())
        if isinstance(hold, Mapping)
    ]
