"""What every command that runs a flow needs around it: the workspace's Prefect, one flow at a time, workers, progress."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flows.console import progress_bars
from flows.environment import configure_prefect
from flows.prefect_server import session_server
from tasks.clock import utc_now
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.training.workers import Progress, ignore_progress, worker_pool
from tasks.workspace import Workspace, open_workspace


@contextmanager
def flow_session(ws: Workspace, totals: Mapping[str, int | None] | None) -> Iterator[None]:
    """Hold the workspace's flow lock and an open worker pool; with totals, show progress bars."""
    configure_prefect(ws.prefect)
    with exclusive_lock(ws.private / "flow.lock"), _bars(totals) as on_progress, worker_pool(on_progress=on_progress), session_server(ws):
        yield
        from tasks.requests.notifying import deliver_callbacks  # imports the samples' tables

        deliver_callbacks(ws, utc_now())
        Ledger(ws).sign_checkpoint()


@contextmanager
def _bars(totals: Mapping[str, int | None] | None) -> Iterator[Progress]:
    if totals is None:
        yield ignore_progress
        return
    with progress_bars(totals) as advance:
        yield advance


def open_for_flow(directory: Path) -> Workspace:
    """The workspace, with the store of events ready.

    Raises:
        StateError: there is no workspace at `directory`.
    """
    ws = open_workspace(directory)
    ws.ledger.mkdir(parents=True, exist_ok=True)
    return ws
