"""`lethe serve`: a Prefect server for the workspace, and the inbox watched and dealt with for as long as it runs.

Prefect reads its settings when it's imported, so nothing here imports it before the server is there.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from flows.environment import configure_libraries
from flows.prefect_server import prefect_server
from flows.session import open_for_flow
from tasks.requests.inbox import create_inbox


def run_serve(
    directory: Path,
    port: int,
    *,
    on_ready: Callable[[dict[str, object]], None] = lambda document: None,
    standby: bool = True,
    reconcile_seconds: float = 30.0,
) -> None:
    """Serve the workspace's inbox until SIGINT or SIGTERM.

    Args:
        directory: the workspace.
        port: of the Prefect server, on 127.0.0.1.
        on_ready: told the server's address and the inbox once.
        standby: whether a process lies ready for `lethe submit` and `lethe learn`; see `flows.standby`.
        reconcile_seconds: when an item that has no run is given one.

    Raises:
        StateError: no workspace, one that is served already, a port that is taken, a server that ended.
    """
    configure_libraries()
    ws = open_for_flow(directory)
    create_inbox(ws)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while starting, too, both end what was begun
    try:
        with prefect_server(ws, port) as server:
            from flows.dispatch import dispatch

            url = f"http://127.0.0.1:{port}"
            asyncio.run(dispatch(ws, server, url=url, on_ready=on_ready, standby=standby, reconcile_seconds=reconcile_seconds))
    except KeyboardInterrupt:
        pass
