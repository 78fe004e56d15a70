"""What is kept for a request while it's open: its plan and its choice of duplicates, which name samples, and the pictures that it brought.

It goes after the ledger has said that the request is closed, since a case that isn't needs its plan. A crash between the two leaves files
of a closed request; every flow looks for them before it does anything else.
"""

from pathlib import Path

from cdm_core.digests import sha256_digest
from tasks.files import erase_folder
from tasks.ledger.case import Case
from tasks.ledger.store import OPEN, Ledger, StoredRequest
from tasks.plans.duplicates import erase_choice, save_choice
from tasks.requests.request_images import images_folder
from tasks.workspace import Workspace


def plan_file(ws: Workspace, request_id: str) -> Path:
    """Where a request's plan is kept."""
    return ws.ledger / "plans" / f"{sha256_digest(request_id.encode())[:32]}.json"


def keep_choice(ws: Workspace, request_id: str, choice: str | tuple[str, ...]) -> None:
    """Keep what was chosen of duplicates in place of what was before, for a request that isn't planned yet."""
    stored = Ledger(ws).request(request_id)
    if stored is None or stored.status not in ("received", "held"):
        return
    if choice == "none":
        erase_choice(ws, request_id)
    else:
        save_choice(ws, request_id, choice)


def erase_kept(ws: Workspace, request_id: str) -> None:
    """Delete what was kept for a request if it isn't open any more; of one that waits for a hold the plan alone."""
    stored = Ledger(ws).request(request_id)
    if stored is not None:
        _erase(ws, stored)


def sweep_kept(ws: Workspace) -> None:
    """Delete what a crash has left of requests that aren't open any more; call it inside the flow's lock."""
    if any(folder.is_dir() and any(folder.iterdir()) for folder in (ws.ledger / "plans", ws.ledger / "images")):
        for stored in Ledger(ws).requests():
            _erase(ws, stored)


def _erase(ws: Workspace, stored: StoredRequest) -> None:
    # A verdict asks for a person before the purge and the closing, which need the plan.
    if stored.status in OPEN or (stored.status == "needs_review" and Case(ws, stored.request_id).find("closed") is None):
        return
    plan_file(ws, stored.request_id).unlink(missing_ok=True)
    if stored.content is None:  # else the rest is carried out when a hold ends, by the same choice and pictures
        erase_choice(ws, stored.request_id)
        erase_folder(images_folder(ws, stored.request_id))
