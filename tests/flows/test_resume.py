"""What was cut short, or waited for a hold, is finished before anything else, and how it ends is nobody else's answer."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cdm_core.digests import Json, sha256_digest
from cdm_core.errors import InvalidInputError, LetheError, RequestRefusedError, StateError
from flows import forget, receive
from flows.resume import finish_interrupted
from tasks.data.workspace_init import create_workspace
from tasks.keys import create_keys, owner_secret
from tasks.ledger.store import Ledger, StoredRequest
from tasks.requests.inbox import REQUEUED
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
NO_MATCH = RequestRefusedError("request r-2: no such owner or sample in this workspace", reason="no_match")
REFUSED = {"request_id": "r-2", "status": "refused", "reason": "no_match", "message": str(NO_MATCH)}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """Three requests that came by the inbox and waited for a hold, which has ended: all are in the queue again."""
    ws = Workspace(tmp_path / "ws")
    ws.keys.mkdir(parents=True)
    create_keys(ws)
    create_workspace(ws.root, shards=2, stages=2, pictures=[], secret=owner_secret(ws), progress=lambda done, total: None)
    (ws.inbox / "done").mkdir(parents=True)
    for request_id in ("r-1", "r-2", "r-3"):
        Ledger(ws).receive(request_id, "agency", sha256_digest(request_id.encode()), request_id.encode(), NOW)
        held = {"request_id": request_id, "status": "held", "holds": []}
        Ledger(ws).set_status(request_id, "received", held)
        Ledger(ws).append("requeued", request_id, {"holds": []}, NOW)
        outcome_file(ws, request_id).write_text(json.dumps({"item": f"request-{request_id}", **held}))
    return ws


def outcome_file(ws: Workspace, request_id: str) -> Path:
    return ws.inbox / "done" / f"request-{request_id}.json"


def told(ws: Workspace, request_id: str) -> object:
    return json.loads(outcome_file(ws, request_id).read_bytes())


def stored(ws: Workspace, request_id: str) -> StoredRequest:
    found = Ledger(ws).request(request_id)
    assert found is not None
    return found


def forget_all_but(patch: pytest.MonkeyPatch, refused: str, error: LetheError) -> list[str]:
    """In place of the flow: every request is completed but one; returns which were asked for, as they come."""
    asked: list[str] = []

    def forget_one(root: str, request_id: str) -> dict[str, Json]:
        asked.append(request_id)
        if request_id == refused:
            raise error
        answer: dict[str, Json] = {"request_id": request_id, "status": "completed"}
        Ledger(Workspace(Path(root))).set_status(request_id, "completed", answer)
        return answer

    patch.setattr(forget, "forget", forget_one)
    return asked


def test_a_requeued_request_that_names_nothing_any_more_is_refused_and_the_others_are_carried_out(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = forget_all_but(monkeypatch, "r-2", NO_MATCH)
    finish_interrupted(ws)
    assert asked == ["r-1", "r-2", "r-3"]
    assert [stored(ws, request_id).status for request_id in asked] == ["completed", "refused", "completed"]
    assert (stored(ws, "r-2").content, stored(ws, "r-2").answer) == (None, REFUSED)
    assert told(ws, "r-1") == {"item": "request-r-1", "request_id": "r-1", "status": "completed"}
    assert told(ws, "r-2") == {"item": "request-r-2", **REFUSED}
    finish_interrupted(ws)
    assert len(asked) == 3
    Ledger(ws).verify()


@pytest.mark.parametrize("error", [NO_MATCH, InvalidInputError("a manifest is damaged")])
def test_one_that_cannot_be_finished_is_no_refusal_of_what_the_caller_was_asked(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, error: LetheError
) -> None:
    Ledger(ws).append("planned", "r-2", {"plan_digest": ""}, NOW)
    Ledger(ws).set_status("r-2", "stopped")
    forget_all_but(monkeypatch, "r-2", error)
    with pytest.raises(StateError, match=f"request r-2: was cut short and can't be finished: {error}"):
        finish_interrupted(ws)
    assert stored(ws, "r-2").status == "stopped"


def test_one_that_cannot_even_be_planned_keeps_nobody_waiting(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = forget_all_but(monkeypatch, "r-2", InvalidInputError("its choice of duplicates is none any more"))
    finish_interrupted(ws)
    assert [stored(ws, request_id).status for request_id in asked] == ["completed", "received", "completed"]


def test_a_run_for_a_requeued_request_that_is_refused_ends_well_and_tells_the_new_answer(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ws: Workspace, request_id: str, *, show_progress: bool) -> receive.Document:
        raise NO_MATCH

    monkeypatch.setattr(receive, "forget_received", refuse)
    receive.receive_request.fn(str(ws.root), f"{REQUEUED}r-2")
    assert told(ws, "r-2") == {"item": "request-r-2", **REFUSED}
    assert told(ws, "r-1") == {"item": "request-r-1", "request_id": "r-1", "status": "held", "holds": []}
