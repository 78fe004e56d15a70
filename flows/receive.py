"""Receive: the two flows that `lethe serve` runs, one for a request file in the inbox and one for an arrival.

A run is told the item's digest, never its content, and finds it in the inbox by that. It may be told twice, or started again after it was
killed: an item that was dealt with is gone, and the flows below find in the ledger what they had done.

A process that waits with everything loaded carries the work out as `lethe submit` or `lethe learn` would (`flows.standby`), and the run
reads in the ledger what came of it. Where none waits, or it came to nothing, the run does the work itself.

Refused items end a run well. A run fails where trying again may help: nothing is built yet, a store can't be reached, a file can't be read.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ELOOP, ENAMETOOLONG
from pathlib import Path

from prefect import flow

from cdm_core.errors import InvalidInputError, LetheError, RequestRefusedError, StateError, SuppressedError
from flows.commands import Document, forget_received, learn_arrival
from flows.console import say
from flows.standby.client import hand_over
from tasks.clock import utc_now
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.requests.arrivals import read_arrival
from tasks.requests.batches import receive_waiting
from tasks.requests.inbox import (
    REQUEUED,
    InboxItem,
    find_item,
    find_pictures,
    read_owner,
    record_outcome,
    remove_arrival,
    remove_request,
    reopen_arrival,
    retell_outcome,
)
from tasks.requests.intake import receive_file
from tasks.training.workers import end_with_parent
from tasks.workspace import Workspace

_Refusal = RequestRefusedError | InvalidInputError | SuppressedError


@flow(name="receive-request", flow_run_name="{item}")
def receive_request(root: str, item: str) -> None:
    """Take in the request file of that name, forget what it names, leave the answers in the inbox."""
    ws = Workspace(Path(root))
    if item.startswith(REQUEUED):
        _forget_requeued(ws, item)
        return
    with _claimed(ws, item) as found:
        if found is None:
            return
        try:
            received = receive_file(ws, Ledger(ws), found.path, utc_now())
        except (RequestRefusedError, InvalidInputError) as error:
            _raise_if_passing(error)
            _report(ws, found, _describe(error, found))
            remove_request(found)
            return
        pictures = find_pictures(ws, found, received.requests)
        receive_waiting(ws, found.name, utc_now())
        _try_standby(ws, "submit", str(found.path))
        answers = [_forget(ws, found, request.request_id) for request in received.requests]
        _report(ws, found, *answers)
        remove_request(found, pictures)


@flow(name="receive-arrival", flow_run_name="{item}")
def receive_arrival(root: str, item: str) -> None:
    """Take in the arrival of that name, learn it, leave the answer in the inbox."""
    ws = Workspace(Path(root))
    with _claimed(ws, item) as found:
        if found is None:
            return
        try:
            owner_id, tier = read_owner(found.path)
            arrival = read_arrival(ws, Ledger(ws), found.path, owner_id, tier, utc_now())
            tier_option = [] if tier is None else ["--tier", str(tier)]
            _try_standby(ws, "learn", str(found.path), "--owner", owner_id, *tier_option)
            _report(ws, found, learn_arrival(ws, arrival, show_progress=False))
        except InvalidInputError as error:
            _report(ws, found, _describe(error, found))
            reopen_arrival(found)
            return
        except SuppressedError as error:
            _report(ws, found, _describe(error, found))
        remove_arrival(ws, found)


@contextmanager
def _claimed(ws: Workspace, name: str) -> Iterator[InboxItem | None]:
    """The item, for this run alone; None if it's gone."""
    end_with_parent()
    with exclusive_lock(ws.inbox / ".lock"):
        try:
            yield find_item(ws, name, utc_now())
        except LetheError as error:
            say(f"{name} failed and stays in the inbox: {error}")
            raise


def _try_standby(ws: Workspace, *arguments: str) -> None:
    """Have the work done by the process that waits; what it leaves undone (declined, failed, was ended) the run does itself."""
    with suppress(StateError):
        hand_over(ws.root, [*arguments, "--workspace", str(ws.root)], quiet=True)


def _forget(ws: Workspace, item: InboxItem, request_id: str) -> Document:
    try:
        return forget_received(ws, request_id, show_progress=False)
    except (RequestRefusedError, InvalidInputError) as error:
        _raise_if_passing(error)
        return {"request_id": request_id, **_describe(error, item)}


def _forget_requeued(ws: Workspace, item: str) -> None:
    """Of what was refused the inbox tells, too: another's request may have erased what it named."""
    request_id = item.removeprefix(REQUEUED)
    try:
        answer = forget_received(ws, request_id, show_progress=False)
    except RequestRefusedError as error:
        answer = {"request_id": request_id, "status": "refused", "reason": error.reason, "message": str(error)}
    retell_outcome(ws, answer)
    say(f"{item} {answer['status']}")


def _raise_if_passing(error: _Refusal) -> None:
    """Raise it again if it comes of a file that can't be read now; a name that can't be one stays so. Nobody is refused for our disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno not in (None, ENAMETOOLONG, ELOOP):
            raise error
        cause = cause.__cause__


def _describe(error: _Refusal, item: InboxItem) -> Document:
    """A refusal as the outcome tells it; the file's own name may be a person's, and stands for itself."""
    reason = error.reason if isinstance(error, RequestRefusedError) else "suppressed" if isinstance(error, SuppressedError) else "bad_input"
    return {
        "status": "refused",
        "reason": reason,
        "message": str(error).replace(str(item.path), item.name).replace(item.path.name, item.name),
    }


def _report(ws: Workspace, item: InboxItem, *answers: Document) -> None:
    """Leave the outcome in the inbox, and say it; messages may name files, so what is said has the reason alone."""
    is_refused = all(answer["status"] == "refused" for answer in answers)
    document = answers[0] if len(answers) == 1 else {"requests": list(answers)}
    record_outcome(ws, item, "refused" if is_refused else "done", document)
    for answer in answers:
        detail = f"version {answer['model_version']} serves" if "model_version" in answer else answer.get("reason", "")
        say(f"{item.name} {answer['status']}: {detail}")
