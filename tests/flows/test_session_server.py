"""A Prefect server that ends before the command that uses it: one line, and the answer where the work was done."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from httpx import ConnectError

from cdm_core.digests import sha256_digest
from cdm_core.errors import StateError
from flows import commands, forget, prefect_server
from flows.prefect_server import free_port, session_server
from tasks.ledger.store import Ledger
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def unreachable() -> RuntimeError:
    """As Prefect says it of a server that it never reached."""
    error = RuntimeError("Failed to reach API")
    error.__cause__ = ConnectError("refused")
    return error


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A request is taken in; the server of a command's own isn't there."""
    monkeypatch.setattr(prefect_server, "_own_server", lambda ws: f"http://127.0.0.1:{free_port()}/api")
    Ledger(Workspace(tmp_path)).receive("r-1", "agency", sha256_digest(b"{}"), b"{}", NOW)
    return Workspace(tmp_path)


@pytest.mark.parametrize("error", [ConnectError("refused"), unreachable()], ids=["lost", "never reached"])
def test_a_server_that_ended_is_told_in_one_line(ws: Workspace, error: Exception) -> None:
    with pytest.raises(StateError, match="the Prefect server ended; run the same command again"), session_server(ws):
        raise error


def test_a_bug_stays_a_bug(ws: Workspace) -> None:
    with pytest.raises(RuntimeError, match="a bug"), session_server(ws):
        raise RuntimeError("a bug")


def test_a_server_that_is_gone_is_known_before_anything_is_asked_of_it() -> None:
    assert prefect_server._is_gone(f"http://127.0.0.1:{free_port()}/api")


def test_the_answer_is_the_ledgers_where_the_work_was_done(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(root: str, request_id: str) -> None:
        raise ConnectError("refused")

    monkeypatch.setattr(forget, "forget", lose)
    with pytest.raises(ConnectError):
        commands._run_forget(ws, "r-1", "r-1")
    Ledger(ws).set_status("r-1", "completed", {"status": "completed"})
    assert commands._run_forget(ws, "r-1", "r-1") == {"status": "completed"}
