"""How soon a request in the inbox of a running server stops the use of its data: a benchmark, run with `-m benchmarks`."""

from pathlib import Path

import pytest
from built_workspace import Built, copy_workspace
from served_workspace import serve
from tiny_workspace import OWNERS, signed_request

from tasks.requests.inbox import create_inbox

MOST_SECONDS = 5.0


@pytest.mark.benchmarks
def test_a_running_server_stops_in_seconds(built: Built, tmp_path: Path) -> None:
    ws = copy_workspace(built.ws, tmp_path / "ws")
    create_inbox(ws)
    with serve(ws) as served:
        signed_request(ws, ws.inbox / "requests", "r-1", owner_ids=[OWNERS[0].owner_id])
        outcome = served.outcome("done", "request")
    assert outcome["status"] == "completed"
    assert 0 < outcome["stop_seconds"] <= MOST_SECONDS
