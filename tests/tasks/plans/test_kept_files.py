"""What is kept for a request goes when it's closed, and not before."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cdm_core.digests import Digest, sha256_digest
from tasks.ledger.case import Case
from tasks.ledger.store import Ledger, Status
from tasks.plans.duplicates import erase_choice, load_choice, save_choice
from tasks.plans.kept_files import erase_kept, keep_choice, plan_file, sweep_kept
from tasks.requests.request_images import images_folder
from tasks.workspace import Workspace

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """Two requests have come, each with a plan, a choice and a picture."""
    ws = Workspace(tmp_path)
    for request_id in ("r-1", "r-2"):
        Ledger(ws).receive(request_id, "agency", Digest(sha256_digest(request_id.encode())), b"{}", NOW)
        for path in (plan_file(ws, request_id), images_folder(ws, request_id) / "a.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(request_id))
        save_choice(ws, request_id, "exact")
    return ws


def kept(ws: Workspace, request_id: str) -> list[str]:
    found = {
        "plan": plan_file(ws, request_id).exists(),
        "choice": load_choice(ws, request_id) == "exact",
        "pictures": images_folder(ws, request_id).exists(),
    }
    return [name for name, is_there in found.items() if is_there]


def close(ws: Workspace, request_id: str, status: Status = "completed") -> None:
    """As far as a crash lets it come: the ledger knows."""
    Case(ws, request_id).finish("closed", {})
    Ledger(ws).set_status(request_id, status, {})
    if status != "held":
        Ledger(ws).forget_content(request_id)


def test_an_open_request_keeps_all(ws: Workspace) -> None:
    Ledger(ws).set_status("r-1", "retraining")
    erase_kept(ws, "r-1")
    erase_kept(ws, "never received")
    sweep_kept(ws)
    assert kept(ws, "r-1") == kept(ws, "r-2") == ["plan", "choice", "pictures"]


def test_a_closed_one_keeps_nothing_and_takes_nothing_from_others(ws: Workspace) -> None:
    close(ws, "r-1")
    erase_kept(ws, "r-1")
    assert (kept(ws, "r-1"), kept(ws, "r-2")) == ([], ["plan", "choice", "pictures"])


def test_what_a_crash_left_of_closed_ones_is_swept(ws: Workspace) -> None:
    close(ws, "r-1")
    close(ws, "r-2", "needs_review")
    sweep_kept(ws)
    assert kept(ws, "r-1") == kept(ws, "r-2") == []


@pytest.mark.parametrize("status", ["held", "needs_review"])
def test_one_whose_rest_waits_for_a_hold_keeps_what_it_is_planned_by_again(ws: Workspace, status: Status) -> None:
    Case(ws, "r-1").finish("closed", {}, status=status)
    erase_kept(ws, "r-1")
    sweep_kept(ws)
    assert kept(ws, "r-1") == ["choice", "pictures"]


def test_one_whose_verdict_asks_for_a_person_keeps_its_plan_until_it_is_closed(ws: Workspace) -> None:
    Ledger(ws).set_status("r-1", "needs_review")
    sweep_kept(ws)
    assert kept(ws, "r-1") == ["plan", "choice", "pictures"]
    close(ws, "r-1", "needs_review")
    sweep_kept(ws)
    assert kept(ws, "r-1") == []


@pytest.mark.parametrize(
    ("status", "is_kept"), [("received", True), ("held", True), ("retraining", False), ("refused", False), ("completed", False)]
)
def test_a_choice_is_kept_for_what_is_not_planned_yet(ws: Workspace, status: Status, is_kept: bool) -> None:
    erase_choice(ws, "r-1")
    Ledger(ws).set_status("r-1", status, {})
    keep_choice(ws, "r-1", "exact")
    assert (load_choice(ws, "r-1") == "exact") is is_kept


def test_a_later_choice_takes_the_place_of_an_earlier_one(ws: Workspace) -> None:
    keep_choice(ws, "r-1", ("a" * 64,))
    assert load_choice(ws, "r-1") == ("a" * 64,)
    keep_choice(ws, "r-1", "none")
    assert (load_choice(ws, "r-1"), load_choice(ws, "r-2")) == ("none", "exact")


def test_without_files_there_is_nothing_to_sweep(tmp_path: Path) -> None:
    sweep_kept(Workspace(tmp_path))
    assert not (tmp_path / ".lethe").exists()
