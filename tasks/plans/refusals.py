"""Refusing a request that had been taken in: its id stays taken, and what it brought goes.

One that waited for a hold may have been carried out in part before. If another's request has erased the rest meanwhile, nothing is left
that it names: it is completed, not refused, and keeps the answer and the records of what was done for it.

Either is one transaction of the ledger. What follows it needs the request's bytes, or takes them away, and a crash may come between:
every flow looks for such requests before it does anything else.
"""

from collections.abc import Mapping
from datetime import datetime

from cdm_core.digests import Json
from cdm_core.errors import RequestRefusedError
from tasks.ledger.store import Ledger, StoredRequest
from tasks.plans.kept_files import erase_kept
from tasks.requests.notifying import queue_callbacks
from tasks.workspace import Workspace


def refuse_request(ws: Workspace, request_id: str, error: RequestRefusedError, now: datetime) -> Mapping[str, Json]:
    """Record that a request was refused, and why; then write down what its sender is to be told, and erase its bytes and pictures.

    Returns:
        Its answer from now on; of status `completed`, if nothing is left of what was carried out in part before.
    """
    ledger = Ledger(ws)
    stored = ledger.request(request_id)
    assert stored is not None, "only what was received is refused"
    is_done = error.reason == "no_match" and ledger.last("closed", request_id) is not None
    answer = _complete(stored) if is_done else _refuse(request_id, error)
    with ledger.together():
        ledger.append("rest_gone" if is_done else "refused", request_id, {"reason": error.reason}, now)
        ledger.set_status(request_id, "completed" if is_done else "refused", answer)
    _settle(ws, request_id, is_done=is_done)
    return answer


def settle_refusals(ws: Workspace) -> None:
    """Finish the refusals that a crash has cut short; call it inside the flow's lock."""
    for stored in Ledger(ws).requests(with_content=True):
        if stored.status in ("refused", "completed"):
            _settle(ws, stored.request_id, is_done=stored.status == "completed")


def _refuse(request_id: str, error: RequestRefusedError) -> dict[str, Json]:
    return {"request_id": request_id, "status": "refused", "reason": error.reason, "message": str(error)}


def _complete(stored: StoredRequest) -> dict[str, Json]:
    answer = {name: value for name, value in (stored.answer or {}).items() if name not in ("held_samples", "holds")}
    return {**answer, "request_id": stored.request_id, "status": "completed"}


def _settle(ws: Workspace, request_id: str, *, is_done: bool) -> None:
    queue_callbacks(ws, request_id, "closed" if is_done else "refused")
    Ledger(ws).forget_content(request_id)
    erase_kept(ws, request_id)
