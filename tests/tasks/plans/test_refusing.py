"""A refusal is one step of the ledger, and what a crash leaves of the rest is made up for."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from quick_settings import set_parameters
from tiny_requests import drp_content

from cdm_core.digests import sha256_digest
from cdm_core.errors import RequestRefusedError
from tasks.data.workspace_init import create_workspace
from tasks.keys import create_keys, owner_secret
from tasks.ledger.store import Ledger, StoredRequest
from tasks.plans import refusals
from tasks.plans.duplicates import load_choice, save_choice
from tasks.plans.kept_files import sweep_kept
from tasks.plans.refusals import refuse_request, settle_refusals
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
NO_MATCH = RequestRefusedError("request r-1: nothing here is theirs", reason="no_match")


class Crash(BaseException):
    """What no code of ours catches."""


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A request that named an address for answers, and a choice of duplicates; another one waits."""
    ws = Workspace(tmp_path / "ws")
    ws.keys.mkdir(parents=True)
    create_keys(ws)
    create_workspace(ws.root, shards=2, stages=2, pictures=[], secret=owner_secret(ws), progress=lambda done, total: None)
    set_parameters(ws, {"intake": {"callbacks": True}})
    for request_id in ("r-1", "r-2"):
        content = drp_content("johanna@withdrawn.example", f"https://agent.example/{request_id}")
        Ledger(ws).receive(request_id, "agent", sha256_digest(content), content, NOW)
        Ledger(ws).append("received", request_id, {"digest": sha256_digest(content), "regulation": "ccpa", "format": "drp"}, NOW)
        save_choice(ws, request_id, "exact")
    return ws


def stored(ws: Workspace, request_id: str) -> StoredRequest:
    found = Ledger(ws).request(request_id)
    assert found is not None
    return found


def num_letters(ws: Workspace) -> int:
    return len(list((ws.ledger / "callbacks").glob("*.json")))


def assert_refused(ws: Workspace) -> None:
    assert (stored(ws, "r-1").status, stored(ws, "r-1").content, stored(ws, "r-1").issuer) == ("refused", None, None)
    assert (stored(ws, "r-1").answer or {})["reason"] == "no_match"
    assert [event.body["reason"] for event in Ledger(ws).events(kind="refused", request_id="r-1")] == ["no_match"]
    assert load_choice(ws, "r-1") == "none"
    assert num_letters(ws) == 1
    assert (stored(ws, "r-2").status, load_choice(ws, "r-2")) == ("received", "exact")
    assert stored(ws, "r-2").content is not None
    Ledger(ws).verify()


def test_what_it_brought_goes_and_its_sender_will_be_told(ws: Workspace) -> None:
    refuse_request(ws, "r-1", NO_MATCH, NOW)
    assert_refused(ws)


@pytest.mark.parametrize("step", ["queue_callbacks", "erase_kept"])
def test_a_crash_after_the_ledger_knows_is_made_up_for(ws: Workspace, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(refusals, step, _crash)
        with pytest.raises(Crash):
            refuse_request(ws, "r-1", NO_MATCH, NOW)
    settle_refusals(ws)
    sweep_kept(ws)
    assert_refused(ws)


def test_a_crash_within_the_ledger_leaves_it_waiting(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "set_status", _crash)
        with pytest.raises(Crash):
            refuse_request(ws, "r-1", NO_MATCH, NOW)
    settle_refusals(ws)
    assert (stored(ws, "r-1").status, Ledger(ws).events(kind="refused")) == ("received", [])
    refuse_request(ws, "r-1", NO_MATCH, NOW)
    assert_refused(ws)


@pytest.mark.parametrize("is_cut_short", [False, True])
def test_one_that_was_carried_out_in_part_is_completed_when_another_has_erased_its_rest(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, *, is_cut_short: bool
) -> None:
    ledger, part = Ledger(ws), {"request_id": "r-1", "purged": {"checkpoints": 1}, "audit_records": ["a"]}
    ledger.append("closed", "r-1", {"record": "a", "held_samples": 2}, NOW)
    ledger.set_status("r-1", "held", {**part, "status": "held", "held_samples": 2, "holds": [{"hold_id": "h"}]})  # type: ignore[dict-item]
    ledger.append("requeued", "r-1", {"holds": ["h"]}, NOW)
    ledger.set_status("r-1", "received")
    if is_cut_short:
        with monkeypatch.context() as patch:
            patch.setattr(refusals, "queue_callbacks", _crash)
            with pytest.raises(Crash):
                refuse_request(ws, "r-1", NO_MATCH, NOW)
        settle_refusals(ws)
    else:
        assert refuse_request(ws, "r-1", NO_MATCH, NOW)["status"] == "completed"
    assert stored(ws, "r-1").answer == {**part, "status": "completed"}
    assert (stored(ws, "r-1").status, stored(ws, "r-1").content, num_letters(ws)) == ("completed", None, 1)
    assert ledger.events(kind="refused", request_id="r-1") == []
    assert ledger.verify()


def _crash(*_: object, **__: object) -> None:
    raise Crash
