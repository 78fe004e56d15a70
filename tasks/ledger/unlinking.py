"""Unlinking: a closed request is taken out of the ledger, and every proof goes on holding.

What goes: the salts, bodies and request ids of all events of the request, in all its rounds; its row, with status and answer; what was
noted of its lines; its outcome in the inbox. A batch that it was carried out in names all of its requests, so the batch's events go with
the last of them. What stays of each event is its leaf, kind and time, which lead to nobody: a leaf is a hash over 32 random bytes that are
gone. So checkpoints, proofs, receipts and records verify as before; a receipt, which holds the one salt of its own event, lies with its
owner. A new one can't be made: ask for it first.

What doesn't go: events about no request (keys, holds, promotions of builds, records by name and digest), since they tell of the workspace;
and the signed records, the MLflow run and Prefect's flow run, which hold the request's id, the first two also its body's digest, keyed
hashes and counts. The records are the evidence that the erasure happened, and one taken out of its chain would break all that follow. An id
that names a person should never be sent.

The request must not be carried out again if somebody keeps its signed bytes, for the owner may have come back since. So a keyed hash of
digest and id goes to the suppression list, and `tasks.requests.intake` refuses what is on it as `replayed`.
"""

import json
from datetime import datetime

from cdm_core.digests import Json
from cdm_core.errors import InvalidInputError, StateError
from tasks.files import write_atomically
from tasks.ledger.store import CLOSED, Ledger, StoredRequest
from tasks.locks import exclusive_lock
from tasks.plans.kept_files import erase_kept
from tasks.requests.batches import batch_of, is_batch, members_of
from tasks.requests.intake import spent_hash
from tasks.workspace import Workspace


def unlink_request(ws: Workspace, request_id: str, now: datetime) -> dict[str, Json]:
    """Take a closed request out of the ledger; answers how many events were unlinked.

    Raises:
        InvalidInputError: no such request, or several issuers sent one of that id.
        StateError: it isn't closed, or is an arrival, whose pictures are still here.
        VerificationError: the ledger doesn't hold.
    """
    ledger = Ledger(ws)
    with exclusive_lock(ws.private / "flow.lock"):
        stored = _find(ledger, request_id)
        batch = batch_of(ws, stored.request_id)
        names = [stored.request_id]
        if batch is not None and [member.request_id for member in members_of(ws, batch)] == names:
            names.append(batch)
        for name in names[1:]:
            if (case := ledger.request(name)) is None or case.status not in CLOSED:
                raise StateError(f"{request_id}: its batch isn't closed")
        for name in names:  # first: after a crash the request is still found by its id, and this is done again
            erase_kept(ws, name)
        _erase_told(ws, stored)
        count = ledger.unlink(names, [spent_hash(ws, stored.digest, stored.request_id)], now)
        ledger.sign_checkpoint()
    return {"request_id": stored.request_id, "unlinked": True, "events": count, "batch_unlinked": len(names) > 1}


def _find(ledger: Ledger, request_id: str) -> StoredRequest:
    stored, named = ledger.request(request_id), ledger.requests_named(request_id)
    if stored is None and len(named) > 1:
        raise InvalidInputError(f"{request_id}: came from several issuers; say which: {', '.join(each.request_id for each in named)}")
    stored = stored or next(iter(named), None)
    if stored is None or is_batch(stored.request_id):
        raise InvalidInputError(f"{request_id}: no such request")
    if ledger.last("received", stored.request_id) is None:
        raise StateError(f"{request_id}: is an arrival, not a deletion request")
    if stored.status not in CLOSED:
        raise StateError(f"{request_id}: is not closed; its status is {stored.status}")
    return stored


def _erase_told(ws: Workspace, stored: StoredRequest) -> None:
    """What the inbox told of the request; of a bulk file the other requests' answers stay."""
    for outcome in ("done", "refused"):
        path = ws.inbox / outcome / f"request-{stored.digest[:16]}.json"
        if not path.is_file():
            continue
        document = json.loads(path.read_bytes())
        others = [each for each in document.get("requests", []) if each.get("request_id") != stored.request_id]
        if others:
            write_atomically(path, json.dumps(document | {"requests": others}, indent=2).encode() + b"\n", mode=0o600)
        else:
            path.unlink()
