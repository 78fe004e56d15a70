"""Where a request stands, read from the ledger for an answer in its sender's words."""

from cdm_core.errors import InvalidInputError
from cdm_core.intake.case_status import CaseStatus, compute_expected_by
from cdm_core.intake.detection import Format
from tasks.identities import load_outcomes
from tasks.intake import read_format
from tasks.ledger import Ledger, StoredRequest
from tasks.workspace import Workspace


def read_case(ws: Workspace, request_id: str, form: str) -> CaseStatus:
    """The one request of that form that came under an id.

    Raises:
        InvalidInputError: there is none, or there are several.
    """
    ledger = Ledger(ws)
    found = [(stored, _form_and_regulation(ledger, stored.request_id)) for stored in ledger.requests_named(request_id)]
    if not found:
        raise InvalidInputError(f"{request_id}: no such request")
    matching = [stored for stored, (its_form, _) in found if its_form == form]
    if not matching:
        raise InvalidInputError(f"{request_id}: came as {found[0][1][0]}, so there is no answer as {form}")
    if len(matching) > 1:
        raise InvalidInputError(
            f"{request_id}: came from several issuers; say which: {', '.join(stored.request_id for stored in matching)}"
        )
    return case_of(ws, matching[0])


def case_of(ws: Workspace, stored: StoredRequest) -> CaseStatus:
    """Where a stored request stands."""
    form, regulation = _form_and_regulation(Ledger(ws), stored.request_id)
    answer = stored.answer or {}
    sent_id = stored.request_id.partition("@")[0]
    made_here = sent_id.startswith(f"{form}-")
    return CaseStatus(
        request_id=None if made_here else sent_id,
        ledger_id=stored.request_id,
        issuer=stored.issuer,
        status=stored.status,
        reason=None if answer.get("reason") is None else str(answer["reason"]),
        received_at=stored.received_at,
        expected_by=compute_expected_by(regulation, stored.received_at),
        content=stored.content,
        outcomes=load_outcomes(ws, stored.request_id),
    )


def _form_and_regulation(ledger: Ledger, request_id: str) -> tuple[Format, str]:
    event = ledger.last("received", request_id)
    return ("own", "gdpr") if event is None else (read_format(event.body), str(event.body.get("regulation", "gdpr")))
