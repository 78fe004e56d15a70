"""Finishing what was cut short, before anything new starts.

Only one flow runs at a time in a workspace, so a case that the ledger shows under way while the flow's lock is free was killed. It is
finished first: a new flow must not build on a model whose deletion is half done, nor compose from adapters that are about to be purged.
Nothing of the kind is to be feared of an arrival whose samples are committed, so one that can't be finished is said and left to the next
flow: no deletion waits for what somebody wants to teach.

Requests whose hold has ended are carried out here, too. What one of them named may have been erased meanwhile, on another's request: it is
refused then, which is its own answer and not that of the command that came upon it.
"""

from cdm_core.errors import InvalidInputError, LetheError, RequestRefusedError, StateError, SuppressedError
from flows.console import say
from tasks.clock import utc_now
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger, StoredRequest
from tasks.plans.kept_files import sweep_kept
from tasks.plans.refusals import refuse_request, settle_refusals
from tasks.requests.batches import requests_of
from tasks.requests.holds import sweep_holds
from tasks.requests.inbox import retell_outcome
from tasks.requests.notifying import deliver_callbacks
from tasks.requests.reviewing import settle_reviews
from tasks.workspace import Workspace

_UNDER_WAY = ("planned", "stopped", "retraining")


def finish_interrupted(ws: Workspace, *, but: str | None = None) -> None:
    """Run every interrupted case to its end, but the one that the caller is about to run, then what waited for a hold that has ended.

    Oldest first; call it inside a flow session.

    Raises:
        StateError: a deletion that had been begun can't be finished.
    """
    from tasks.models.learning import settle_arrivals

    settle_refusals(ws)
    settle_reviews(ws)
    settle_arrivals(ws)
    sweep_kept(ws)
    sweep_holds(ws, utc_now())
    for stored in Ledger(ws).requests():
        if _is_cut_short(ws, stored) and stored.request_id != but:
            say(f"finishing {stored.request_id}, which was cut short")
            _finish(ws, stored)
    if ws.settings().approvals.required > 0:
        return  # the plans of those put back in the queue are new ones, and wait for approvals
    for stored in Ledger(ws).requests(status="received"):
        if Ledger(ws).last("requeued", stored.request_id) is not None and stored.request_id != but:
            say(f"carrying out {stored.request_id}, whose hold has ended")
            _finish(ws, stored)


def refuse_while_cut_short(ws: Workspace) -> None:
    """For what decides and isn't a flow; call it inside the flow's lock.

    Raises:
        StateError: a case was cut short. Its flow expects the champion that it left.
    """
    for stored in Ledger(ws).requests():
        if _is_cut_short(ws, stored):
            named = [*requests_of(Case(ws, stored.request_id)), stored.request_id][0]
            raise StateError(f"request {named}: was cut short and comes first; run the lethe submit or lethe learn that began it again")


def _is_cut_short(ws: Workspace, stored: StoredRequest) -> bool:
    """Whether a case has been begun and isn't done; one whose verdict asks for a person is, once it's closed."""
    if stored.status not in (*_UNDER_WAY, "needs_review"):
        return False
    case = Case(ws, stored.request_id)
    is_deletion = "plan_digest" in (case.find("planned") or {})
    if stored.status == "needs_review":
        return case.find("closed") is None if is_deletion else stored.answer is None
    return is_deletion or case.find("stored") is not None  # pictures that weren't taken in have changed nothing, and may be handed in again


def _finish(ws: Workspace, stored: StoredRequest) -> None:
    planned = Case(ws, stored.request_id).find("planned") or {}
    if "plan_digest" not in planned and stored.status != "received":
        _learn(ws, stored.request_id, int(str(planned["shard"])))
        return
    try:
        _forget(ws, stored)
    except (RequestRefusedError, InvalidInputError, SuppressedError) as error:  # the caller would take it for an answer to its own item
        now = Ledger(ws).request(stored.request_id)
        if now is None or now.status != "received":
            raise StateError(f"request {stored.request_id}: was cut short and can't be finished: {error}") from error
        say(f"{stored.request_id} waits on: {error}")  # nothing of it was begun, so nobody else need wait


def _forget(ws: Workspace, stored: StoredRequest) -> None:
    """Carry a request out, or refuse it if it was put back in the queue; where the inbox tells the answer before that, tell the new one."""
    from flows.forget import forget

    try:
        forget(str(ws.root), stored.request_id)
    except RequestRefusedError as error:
        if stored.status != "received":
            raise
        answer = refuse_request(ws, stored.request_id, error, utc_now())
        say(f"{stored.request_id} {answer['status']}: {error.reason}")
        deliver_callbacks(ws, utc_now())
    after = Ledger(ws).request(stored.request_id)
    if after is not None and after.answer is not None:
        retell_outcome(ws, after.answer)


def _learn(ws: Workspace, request_id: str, shard: int) -> None:
    from flows.learn import learn

    try:
        learn(str(ws.root), request_id, shard)
    except LetheError as error:
        say(f"{request_id} could not be finished: {error}")
