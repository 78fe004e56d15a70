"""Finishing what was cut short, before anything new starts.

Only one flow runs at a time in a workspace, so a case that the ledger shows under way while the flow's lock is free was killed. It is
finished first: a new flow must not build on a model whose deletion is half done, nor compose from adapters that are about to be purged.
"""

from cdm_core.digests import Json
from flows.console import say
from tasks.clock import utc_now
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger, StoredRequest
from tasks.plans.kept_files import sweep_kept
from tasks.plans.refusals import settle_refusals
from tasks.requests.holds import sweep_holds
from tasks.workspace import Workspace

_UNDER_WAY = ("planned", "stopped", "retraining")


def finish_interrupted(ws: Workspace, *, but: str | None = None) -> None:
    """Run every interrupted case to its end, oldest first, but the one that the caller is about to run; call it inside a flow session."""
    settle_refusals(ws)
    sweep_kept(ws)
    sweep_holds(ws, utc_now())
    for stored in Ledger(ws).requests():
        is_requeued = stored.status == "received" and Ledger(ws).last("requeued", stored.request_id) is not None
        if is_requeued and ws.settings().approvals.required > 0:
            continue  # its plan is a new one, and waits for approvals
        if (stored.status in _UNDER_WAY or is_requeued) and stored.request_id != but:
            say(f"finishing {stored.request_id}, which was cut short")
            _finish(ws, stored)


def _finish(ws: Workspace, stored: StoredRequest) -> dict[str, Json] | None:
    planned = Case(ws, stored.request_id).find("planned") or {}
    if "plan_digest" in planned or stored.status == "received":
        from flows.forget import forget

        return forget(str(ws.root), stored.request_id)
    if Case(ws, stored.request_id).find("stored") is None:
        return None  # its pictures weren't taken in: nothing has changed, and its owner may hand them in again
    from flows.learn import learn

    return learn(str(ws.root), stored.request_id, int(str(planned["shard"])))
