"""Refusing a request that had been taken in: its id stays taken, and what it brought goes.

The refusal is one transaction of the ledger. What follows it needs the request's bytes, or takes them away, and a crash may come between:
every flow looks for such requests before it does anything else.
"""

from datetime import datetime

from cdm_core.errors import RequestRefusedError
from tasks.ledger.store import Ledger
from tasks.plans.kept_files import erase_kept
from tasks.requests.notifying import queue_callbacks
from tasks.workspace import Workspace


def refuse_request(ws: Workspace, request_id: str, error: RequestRefusedError, now: datetime) -> None:
    """Record that a request was refused, and why; then write down what its sender is to be told, and erase its bytes and pictures."""
    ledger = Ledger(ws)
    answer = {"request_id": request_id, "status": "refused", "reason": error.reason, "message": str(error)}
    with ledger.together():
        ledger.append("refused", request_id, {"reason": error.reason}, now)
        ledger.set_status(request_id, "refused", answer)
    _settle(ws, request_id)


def settle_refusals(ws: Workspace) -> None:
    """Finish the refusals that a crash has cut short; call it inside the flow's lock."""
    for stored in Ledger(ws).requests():
        if stored.status == "refused" and stored.content is not None:
            _settle(ws, stored.request_id)


def _settle(ws: Workspace, request_id: str) -> None:
    queue_callbacks(ws, request_id, "refused")
    Ledger(ws).forget_content(request_id)
    erase_kept(ws, request_id)
