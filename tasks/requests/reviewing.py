"""A person's decision on a case that waits for a review, of a batch on all of its requests; and those that a crash has cut short.

The signed record is the decision. After a crash the promotion or the answers may be missing: every flow makes up for that before it does
anything else, and so does the same `lethe review`. Until then no other decision is taken in.
"""

from contextlib import suppress

from cdm_core.errors import StateError
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger
from tasks.models.deciding import find_review, review
from tasks.requests.batches import batch_of, is_batch, members_of, requests_of
from tasks.requests.notifying import tell
from tasks.workspace import Workspace


def case_to_review(ws: Workspace, request_id: str) -> Case:
    """The case whose review is a request's: its batch, or itself."""
    return Case(ws, batch_of(ws, request_id) or request_id)


def review_case(case: Case, *, accept: bool, reason: str) -> None:
    """Decide, answer each request and tell its sender; call it inside the flow's lock.

    Raises:
        StateError: the case doesn't wait for a review, was decided otherwise, or its candidate can't be promoted any more.
    """
    members = members_of(case.ws, case.request_id) if is_batch(case.request_id) else []
    review(case, members, accept=accept, reason=reason)
    for name in requests_of(case):
        tell(case.ws, name, "reviewed")


def settle_reviews(ws: Workspace, *, but: str | None = None) -> None:
    """Finish the reviews that a crash has cut short, but that of one case; call it inside the flow's lock."""
    waiting = [stored.request_id for stored in Ledger(ws).requests(status="needs_review") if stored.answer is not None]
    for case_id in dict.fromkeys(case_to_review(ws, request_id).request_id for request_id in waiting):
        case = Case(ws, case_id)
        if case_id != but and (decided := find_review(case)) is not None:
            with suppress(StateError):  # someone has moved the champion's alias since: a person has to look, and nothing waits for that
                review_case(case, accept=decided["decision"] == "accepted", reason=str(decided["reason"]))
