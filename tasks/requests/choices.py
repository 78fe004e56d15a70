"""The choice of duplicates that comes with a submit: checked against what its requests name before it is kept.

It's kept until the request is planned, by itself or in a batch, and a later one takes its place. A submit that chooses nothing leaves an
earlier choice as it is, unless it comes with a plan: then exactly what the plan was checked with is kept.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cdm_core.errors import RequestRefusedError
from cdm_core.intake.requests import DeletionRequest
from tasks.ledger.store import Ledger
from tasks.plans.planning import resolve_request
from tasks.requests.batches import case_under_way
from tasks.requests.request_images import images_folder, with_kept_images
from tasks.workspace import Workspace

Choice = str | tuple[str, ...]


def check_choice(ws: Workspace, requests: Iterable[DeletionRequest], folder: Path, choice: Choice) -> None:
    """Return if each request that isn't planned yet can be carried out with that choice; one that will be refused anyway is passed over.

    `folder` has the pictures of those that weren't received yet.

    Raises:
        InvalidInputError: a chosen sample is not among a request's duplicates.
    """
    if isinstance(choice, str):
        return
    for request in requests:
        with suppress(RequestRefusedError):
            if Ledger(ws).request(request.request_id) is None:
                resolve_request(ws, request, folder, choice)
            elif _is_waiting(ws, request.request_id):
                resolve_request(ws, with_kept_images(ws, request), images_folder(ws, request.request_id), choice)


def _is_waiting(ws: Workspace, request_id: str) -> bool:
    stored = Ledger(ws).request(request_id)
    return stored is not None and stored.status in ("received", "held") and case_under_way(ws, request_id) == request_id
